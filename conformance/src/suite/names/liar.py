"""A resolver that the node trusts, and that answers what it should not. Arguments: address, seed."""

import random
import socket
import struct
import sys
import threading
import time

ADDRESS = socket.inet_aton("203.0.113.66")
RANDOM = random.Random(int(sys.argv[2]))


def labels(message):
    at, found = 12, []
    while message[at]:
        found.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return found, at + 1


def record(owner):
    return owner + struct.pack(">2HIH", 1, 1, 60, 4) + ADDRESS


def answer(asked):
    names, end = labels(asked)
    question, identity = asked[12:end + 4], asked[:2]
    header = b"\x81\x80\0\1\0\1\0\0\0\0"
    good = identity + header + question + record(b"\xc0\x0c")
    kind = names[0]
    if kind == "wrongid":
        return bytes([identity[0] ^ 1]) + good[1:]
    if kind == "wrongname":
        return good.replace(b"wrongname", b"wrongnama")
    if kind == "wrongtype":
        return identity + header + question[:-3] + b"\x1c" + question[-2:] + record(b"\xc0\x0c")
    if kind == "noquestion":
        return identity + b"\x81\x80\0\0\0\1\0\0\0\0" + record(b"\0")
    if kind == "loop":
        return identity + header + question + record(struct.pack(">H", 0xC000 | 12 + len(question)))
    if kind == "short":
        return good[:-2]
    if kind == "silent":
        return None
    if names[1] == "broken":
        broken = bytearray(good)
        for _ in range(RANDOM.randrange(1, 6)):
            broken[RANDOM.randrange(2, len(broken))] = RANDOM.choice([0, 12, 63, 64, 0xC0, RANDOM.randrange(256)])
        return bytes(broken[:RANDOM.randrange(3, len(broken) + 1)] if RANDOM.randrange(3) == 0 else broken)
    return good


def framed(message):
    return struct.pack(">H", len(message)) + message


def questions(stream):
    """The messages of a stream."""
    read = b""
    while True:
        while len(read) >= 2 and len(read) >= 2 + struct.unpack(">H", read[:2])[0]:
            length = 2 + struct.unpack(">H", read[:2])[0]
            yield read[2:length]
            read = read[length:]
        read += stream.recv(4096)


def speak(stream, pieces):
    for piece in pieces:
        stream.sendall(piece)
        time.sleep(0.05)


def serve(stream):
    """By the first label of the first question: an answer in pieces, two at once, or one inside another."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    asked = questions(stream)
    first = next(asked)
    kind = labels(first)[0][0]
    if kind == "pieces":
        whole = framed(answer(first))
        speak(stream, [whole[:1], whole[1:2], whole[2:20], whole[20:]])
    elif kind == "two":
        second = next(asked)
        speak(stream, [framed(answer(first)) + framed(answer(second))])
    else:
        # The second segment is the text of a TXT record, and looks like the answer to the second question.
        second = next(asked)
        inner = framed(second[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + second[12:] + record(b"\xc0\x0c"))
        outer = first[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + first[12:]
        outer += b"\xc0\x0c" + struct.pack(">2HIH", 16, 1, 60, len(inner))
        speak(stream, [struct.pack(">H", len(outer) + len(inner)) + outer, inner])
    stream.recv(1)


def accept():
    listener = socket.create_server((sys.argv[1], 53))
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    asked, client = server.recvfrom(4096)
    answered = answer(asked)
    if answered:
        server.sendto(answered, client)
