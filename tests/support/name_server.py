"""A DNS server (RFC 1035) that gives one address for every name: python -m tests.support.name_server LISTEN ADDRESS

Stopped (SIGSTOP), it is a name server that is silent."""

import socket
import sys


def answer(question: bytes, address: str) -> bytes:
    """An A record for an A question; for any other none."""
    end = question.index(b"\0", 12) + 5
    is_a = question[end - 4 : end - 2] == b"\0\x01"
    record = b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04" + socket.inet_aton(address) if is_a else b""
    return question[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if is_a else b"\0\0") + b"\0\0\0\0" + question[12:end] + record


def main() -> None:
    listen, address = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((listen, 53))
        print("ready", flush=True)
        while True:
            question, client = server.recvfrom(4096)
            server.sendto(answer(question, address), client)


if __name__ == "__main__":
    main()
