"""What a pod of the suite `names` does: one JSON object a line, {"what": ..., "came": ...}."""

import errno
import json
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time


def tell(what, came):
    print(json.dumps({"what": what, "came": came}), flush=True)


def name_of(error):
    if isinstance(error, socket.timeout):
        return "timeout"
    return errno.errorcode.get(error.errno, str(error)) if isinstance(error, OSError) else repr(error)


def reach(name, port=8080, family=socket.AF_UNSPEC):
    """Asks by the C library and connects at once."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        codes = {socket.EAI_AGAIN: "EAI_AGAIN", socket.EAI_NONAME: "EAI_NONAME", socket.EAI_FAIL: "EAI_FAIL"}
        return f"no address: {codes.get(error.errno, error)}"
    return connect(kind, address)


def connect(kind, address):
    with socket.socket(kind, socket.SOCK_STREAM) as stream:
        stream.settimeout(5)
        try:
            stream.connect(address)
        except OSError as error:
            return name_of(error)
    return "connected"


def by_cares(names):
    """Asks by c-ares and connects at once."""
    import pycares

    channel = pycares.Channel()
    for name, version in names:
        came = []
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        channel.getaddrinfo(name, 8080, lambda *it: came.append(it), family=family, type=socket.SOCK_STREAM)
        while not came:
            reading, writing = channel.getsock()
            readable, writable, _ = select.select(reading, writing, [], channel.timeout())
            for ready in readable or [pycares.ARES_SOCKET_BAD]:
                channel.process_fd(ready, pycares.ARES_SOCKET_BAD)
            for ready in writable:
                channel.process_fd(pycares.ARES_SOCKET_BAD, ready)
        result, error = came[0]
        if error is not None:
            yield f"no address: {pycares.errno.strerror(error)}"
        else:
            host, port = result.nodes[0].addr[:2]
            yield connect(family, (host.decode(), port))


def by_musl(names):
    """The same by a program that is linked with musl."""
    asked = "".join(f"{name} {version}\n" for name, version in names)
    return subprocess.run(["/resolve-musl"], input=asked, capture_output=True, text=True).stdout.splitlines()


def by_libc(names):
    for name, version in names:
        yield reach(name, family=socket.AF_INET6 if version == 6 else socket.AF_INET)


def fresh(count, tag, by="libc"):
    """Names that nobody asked for before, one in ten of them denied."""
    zones = ["denied" if index % 10 == 9 else "allowed" for index in range(int(count))]
    names = [(f"n{index}-{tag}.{zone}.test", 6 if index % 2 else 4) for index, zone in enumerate(zones)]
    came = {}
    for result in zip(zones, {"libc": by_libc, "musl": by_musl, "c-ares": by_cares}[by](names)):
        came[result] = came.get(result, 0) + 1
    for (zone, result), number in sorted(came.items()):
        tell(f"{zone}: {result}", number)


def dig(*words):
    done = subprocess.run(["dig", "+short", "+time=2", "+tries=1", *words], capture_output=True, text=True)
    return len([line for line in done.stdout.splitlines() if not line.startswith(";")])


def clients():
    """Real clients, each with a name of its own."""
    tell("dig A", dig("a.way.test", "A"))
    tell("dig AAAA only", dig("six.way.test", "AAAA"))
    tell("dig a chain of CNAMEs", dig("c1.way.test", "A"))
    tell("dig over TCP", dig("+tcp", "tcp.way.test", "A"))
    tell("dig 48 addresses, EDNS", dig("+bufsize=4096", "many.way.test", "A"))
    tell("dig truncated, then TCP", dig("+noedns", "large.way.test", "A"))
    tell("dig mixed case", dig("MiXeD.wAy.TeSt", "A"))
    tell("dig what none may open", dig("local.way.test", "A"))
    done = subprocess.run(["getent", "ahosts", "getent.way.test"], capture_output=True, text=True)
    tell("getent", len({line.split()[0] for line in done.stdout.splitlines()}))
    for name in ["a", "c1", "tcp", "many", "large", "mixed", "getent"]:
        tell(f"connect {name}", reach(f"{name}.way.test", family=socket.AF_INET))
    tell("connect six", reach("six.way.test", family=socket.AF_INET6))


def question(name, identity=None):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    identity = random.randrange(65536) if identity is None else identity
    return struct.pack(">6H", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def answer(asked, address):
    record = b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:] + record


def ask(server, name, source=None):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(1)
        if source:
            asker.bind(source)
        try:
            asker.sendto(question(name), (server, 53))
            return len(asker.recv(4096))
        except OSError as error:
            return name_of(error)


def stream(server, batches, answers):
    """Asks over TCP: each batch of bytes is a segment. How many messages come back."""
    with socket.create_connection((server, 53), 5) as asker:
        asker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asker.settimeout(5)
        for batch in batches:
            asker.sendall(batch)
            time.sleep(0.05)
        read = b""
        while True:
            at, came = 0, 0
            while at + 2 <= len(read) and at + 2 + struct.unpack(">H", read[at:at + 2])[0] <= len(read):
                at, came = at + 2 + struct.unpack(">H", read[at:at + 2])[0], came + 1
            if came == answers:
                return came
            read += asker.recv(4096)


def framed(message):
    return struct.pack(">H", len(message)) + message


def streams(liar):
    """DNS over TCP, cut and joined."""
    asked = framed(question("pieces.stream.test"))
    tell("a question and an answer in pieces", stream(liar, [asked[:1], asked[1:9], asked[9:]], 1))
    both = framed(question("two.stream.test")) + framed(question("second.stream.test"))
    tell("two questions and two answers in a segment", stream(liar, [both], 2))
    inside = [framed(question("inside.stream.test")), framed(question("victim.lie.test"))]
    tell("an answer inside another", stream(liar, inside, 1))


def lies(liar, count, own):
    """Answers that must not open anything."""
    for kind in ["wrongid", "wrongname", "wrongtype", "noquestion", "loop", "short"]:
        tell(kind, "answered" if isinstance(ask(liar, f"{kind}.lie.test"), int) else "silent")
    # The pod's own server, and a server that nobody trusts.
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def serve():
        asked, client = server.recvfrom(512)
        server.sendto(answer(asked, "203.0.113.66"), client)

    threading.Thread(target=serve, daemon=True).start()
    tell("own server", "answered" if isinstance(ask("127.0.0.1", "own.lie.test"), int) else "silent")
    # A raw socket answers in the liar's name, over loopback, what the liar does not.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind((own, 0))
        asker.settimeout(2)
        asked = question("silent.lie.test")
        asker.sendto(asked, (liar, 53))
        body = answer(asked, "203.0.113.66")
        port = asker.getsockname()[1]
        udp = struct.pack(">4H", 53, port, 8 + len(body), 0) + body
        header = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(liar), socket.inet_aton(own)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(header + udp, (own, 0))
        try:
            tell("forged over loopback", "answered" if asker.recv(4096) else "silent")
        except OSError as error:
            tell("forged over loopback", name_of(error))
    answered = sum(isinstance(ask(liar, f"m{index}.broken.test"), int) for index in range(int(count)))
    tell("broken messages answered", answered)
    tell("after them", reach("after.way.test", family=socket.AF_INET))


def hello(name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    written = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), written, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return written.read()


def show(address, port, pieces):
    """Sends the pieces, each a segment; the far end sends back what arrives."""
    with socket.create_connection((address, port), 5) as stream:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.settimeout(1.5)
        wanted, came = sum(map(len, pieces)), 0
        try:
            for piece in pieces:
                stream.sendall(piece)
                time.sleep(0.05)
            while came < wanted:
                read = len(stream.recv(65536))
                if not read:
                    break
                came += read
        except OSError as error:
            return f"{'cut' if came < wanted else 'passed'}: {name_of(error)}" if came else "cut"
    return "passed" if came == wanted else "cut"


def shown():
    """Names that a flow shows, to an address that `pay.web.test` led to."""
    address = socket.getaddrinfo("pay.web.test", 443, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    right, wrong, none = hello("pay.web.test"), hello("other.example"), hello(None)
    handshake = right[5:]
    records = b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in
                       (handshake[at:at + 40] for at in range(0, len(handshake), 40)))
    cut = right.index(b"pay.web.test") + 5
    host = "GET / HTTP/1.1\r\nHost: {}\r\n\r\n"
    for what, port, pieces in [
        ("right SNI", 443, [right]),
        ("right SNI in mixed case", 443, [hello("PaY.wEb.TeSt")]),
        ("right SNI in segments", 443, [right[:cut], right[cut:cut + 3], right[cut + 3:]]),
        ("right SNI in records", 443, [records]),
        ("right SNI in records and segments", 443, [records[:90], records[90:200], records[200:]]),
        ("wrong SNI", 443, [wrong]),
        ("wrong SNI in segments", 443, [wrong[:60], wrong[60:120], wrong[120:]]),
        ("no SNI", 443, [none]),
        ("no TLS", 443, [b"hello, world"]),
        ("a name that rules allow and DNS did not lead here by", 443, [hello("elsewhere.web.test")]),
        ("right Host", 80, [host.format("pay.web.test").encode()]),
        ("right Host in segments", 80, [b"GET / HTTP/1.1\r\nHost: pa", b"y.web.test\r\n\r\n"]),
        ("wrong Host", 80, [host.format("other.example").encode()]),
        ("no Host", 80, [b"GET / HTTP/1.0\r\n\r\n"]),
    ]:
        tell(what, show(address, port, pieces).split(":")[0])


def restricted(resolver):
    """A pod that may ask only for what its rules could open."""
    tell("a name that a rule opens", reach("ask.allowed.test", family=socket.AF_INET))
    tell("a tunnel", ask(resolver, "c2VjcmV0LWRhdGE.tunnel.test"))
    tell("a tunnel by the C library", reach("c2VjcmV0LWRhdGE.tunnel.test"))
    tell("a tunnel over TCP", dig("+tcp", "c2VjcmV0LWRhdGE.tunnel.test", "A"))
    tell("a search suffix", dig("ask.allowed.test.cluster.test", "A"))


globals()[sys.argv[1]](*sys.argv[2:])
