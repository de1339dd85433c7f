"""What pods of the suite `names` do to be told of, and to be cut: one JSON object a line, {"what": ..., "came": ...}."""

import errno
import json
import select
import socket
import ssl
import struct
import sys
import time


def tell(what, came):
    print(json.dumps({"what": what, "came": came}), flush=True)


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


def connect(address, port):
    stream = socket.create_connection((address, port), 5)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.settimeout(5)
    return stream


def echo(stream, pieces):
    """Sends the pieces, each a segment; the far end sends back what arrives."""
    wanted, came = sum(map(len, pieces)), 0
    for piece in pieces:
        stream.sendall(piece)
        time.sleep(0.05)
    while came < wanted:
        read = len(stream.recv(65536))
        if not read:
            break
        came += read
    return came == wanted


def told(tag, address):
    """Flows of which events are told, whatever the policy."""
    with connect(address, 443) as stream:
        tell("TLS", echo(stream, [hello(f"tls-{tag}.example")]))
    with connect(address, 443) as stream:
        parts = hello(f"pieces-{tag}.example")
        tell("TLS in segments", echo(stream, [parts[:40], parts[40:140], parts[140:]]))
    with connect(address, 443) as stream:
        tell("TLS without a name", echo(stream, [hello(None)]))
    with connect(address, 80) as stream:
        tell("no HTTP", echo(stream, [b"hello, world"]))
    with connect(address, 8080) as stream:
        tell("TLS elsewhere", echo(stream, [hello(f"elsewhere-{tag}.example")]))
    with connect(address, 80) as stream:
        head = f"GET /first?token=secret HTTP/1.1\r\nHost: http-{tag}.example\r\n\r\n".encode()
        tell("a request", echo(stream, [head]))
        body = f"POST /second HTTP/1.1\r\nHost: other-{tag}.example\r\nContent-Length: 2\r\n\r\nhi".encode()
        tell("a second", echo(stream, [body]))
        # What begins as a request does, and is none; then one more.
        tell("no request", echo(stream, [b"GET is the first word of this, and so it goes on"]))
        head = f"DELETE /third HTTP/1.1\r\nHost: http-{tag}.example\r\n\r\n".encode()
        tell("a third", echo(stream, [head]))
    with connect(address, 80) as stream:
        head = f"PUT /pieces HTTP/1.1\r\nHost: parts-{tag}.example\r\n\r\n".encode()
        tell("a request in segments", echo(stream, [head[:7], head[7:40], head[40:]]))


def with_ech(written):
    """A hello with an extension more: an encrypted one, or what looks like it."""
    extension = struct.pack(">2H", 0xfe0d, 120) + bytes(range(120))
    handshake = written[5:] + extension
    # The extensions are last; their length stands behind versions, random, session, ciphers and methods.
    at = 4 + 34
    at += 1 + handshake[at]
    at += 2 + struct.unpack(">H", handshake[at:at + 2])[0]
    at += 1 + handshake[at]
    handshake = handshake[:at] + struct.pack(">H", len(handshake) - at - 2) + handshake[at + 2:]
    handshake = handshake[:1] + (len(handshake) - 4).to_bytes(3, "big") + handshake[4:]
    return written[:3] + struct.pack(">H", len(handshake)) + handshake


def ech(right):
    """Encrypted hellos to an address that the right name led to."""
    address = socket.getaddrinfo(right, 443, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
    for what, name in [("right name outside", right), ("wrong name outside", "other.example"), ("none outside", None)]:
        with connect(address, 443) as stream:
            stream.settimeout(1.5)
            try:
                came = "passed" if echo(stream, [with_ech(hello(name))]) else "cut"
            except OSError:
                came = "cut"
        tell(what, came)


def quic(initial, address):
    """A client's first datagram, from a socket with one peer and from one without; each followed by others."""
    first = bytes.fromhex(initial)
    for what, is_connected in [("connected", True), ("unconnected", False)]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("0.0.0.0", 0))
            port = sender.getsockname()[1]
            if is_connected:
                sender.connect((address, 443))
            # The same Initial packet twice, as if it were lost, and a short header.
            sent = [first, first, b"\x40" + bytes(1199)]
            for datagram in sent:
                sender.send(datagram) if is_connected else sender.sendto(datagram, (address, 443))
        tell(what, port)


def idle(*flows):
    """Flows that are opened by name, each `name:port`, and then wait. What ends them is told; the others go on after."""
    streams = {}
    for flow in flows:
        name, port = flow.split(":")
        address = socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        stream = connect(address, int(port))
        first = {"443": hello(name), "80": f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()}.get(port, b"hello")
        if not echo(stream, [first]):
            tell(flow, "does not open")
        streams[stream] = flow
    print("open", flush=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        waiting = [stream for stream, flow in streams.items() if "going" in flow]
        if not waiting:
            break
        for stream in select.select(waiting, [], [], 1)[0]:
            try:
                came = f"{len(stream.recv(100))} bytes"
            except OSError as error:
                came = errno.errorcode[error.errno]
            tell(streams.pop(stream), came)
            stream.close()
    for stream, flow in streams.items():
        if "going" in flow:
            tell(flow, "it stays")
            continue
        try:
            tell(flow, "goes on" if echo(stream, [b"more"]) else "ended")
        except OSError as error:
            tell(flow, errno.errorcode.get(error.errno, str(error)))


globals()[sys.argv[1]](*sys.argv[2:])
