"""A file system with one file in it, libssl.so.3, that answers every question but the one for its bytes: hung.py DIRECTORY."""

import ctypes
import os
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 25, 26, 27, 28, 29, 36, 42
NAME, SIZE, ENOENT, ENOSYS = b"libssl.so.3", 1 << 20, 2, 38
LONG = 1 << 20


def attributes(node):
    mode, size = (0o040755, 0) if node == 1 else (0o100755, SIZE)
    return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def directory(offset):
    if offset:
        return b""
    entry = struct.pack("<QQII", 2, 1, len(NAME), 8) + NAME
    return entry + b"\0" * (-len(entry) % 8)


def answer(operation, node, body):
    if operation == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 1 << 16, 0, 8, 8, 1 << 16, 1, 0, 0, *[0] * 8)
    if operation == LOOKUP:
        if body.rstrip(b"\0") != NAME:
            return ENOENT
        return struct.pack("<4Q2I", 2, 0, LONG, LONG, 0, 0) + attributes(2)
    if operation == GETATTR:
        return struct.pack("<QII", LONG, 0, 0) + attributes(node)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<QII", 0, 0, 0)
    if operation == READDIR:
        return directory(struct.unpack_from("<QQ", body)[1])
    if operation == STATFS:
        return b"\0" * 80
    if operation in (RELEASE, RELEASEDIR, FLUSH):
        return b""
    return ENOSYS


def main(at):
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"hung", at.encode(), b"fuse", 0, options.encode()):
        sys.exit(os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    while True:
        request = os.read(device, 1 << 18)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        if operation == READ:
            print("asked for bytes", flush=True)
            continue
        reply = answer(operation, node, request[40:])
        error, reply = (-reply, b"") if isinstance(reply, int) else (0, reply)
        os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)


main(sys.argv[1])
