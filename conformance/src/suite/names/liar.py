"""A resolver that the node trusts, and that answers what it should not. Arguments: address, seed."""

import random
import socket
import struct
import sys

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


server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    asked, client = server.recvfrom(4096)
    answered = answer(asked)
    if answered:
        server.sendto(answered, client)
