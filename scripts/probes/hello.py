"""Probes 11 to 16: the same name leads to the same server however a ClientHello is split."""

from probes.balancers import NAMED
from probes.common import Server, connect, send_slowly

CLIENT_HELLO = 1
HANDSHAKE = 22
SERVER_NAME = 0
PADDING = 21


def prefixed(width, data):
    return len(data).to_bytes(width, "big") + data


def extension(kind, data):
    return kind.to_bytes(2, "big") + prefixed(2, data)


def message(size=0):
    """A ClientHello that asks for `NAMED`, padded to `size` bytes or more."""
    name = extension(SERVER_NAME, prefixed(2, b"\0" + prefixed(2, NAMED.encode())))
    # TLS 1.2, a random, a session id, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, no compression.
    body = b"\x03\x03" + bytes(range(32)) + prefixed(1, bytes(32)) + prefixed(2, b"\xc0\x2f")
    body += prefixed(1, b"\0")
    padding = extension(PADDING, bytes(max(0, size - len(body) - len(name) - 10)))
    body += prefixed(2, padding + name)
    return bytes([CLIENT_HELLO]) + prefixed(3, body)


def records(whole, size):
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    return b"".join(bytes([HANDSHAKE, 3, 1]) + prefixed(2, piece) for piece in pieces)


def reaches_the_named(front, servers, hello, gap=None):
    """Whether the server of that name answers, and was sent what the client sent."""

    def named(connection):
        got = bytearray()
        while len(got) < len(hello):
            piece = connection.recv(65536)
            if not piece:
                return
            got += piece
        connection.sendall(b"named" if got == hello else b"spoilt")

    def other(connection):
        connection.recv(1)
        connection.sendall(b"other")

    with Server(servers[0], named), Server(servers[1], other), connect(front["sni"]) as client:
        try:
            if gap is None:
                client.sendall(hello)
            else:
                send_slowly(client, hello, gap)
            return client.recv(16) == b"named"
        except ConnectionError:
            return False


def one_record(front, servers):
    """SNI: one record"""
    return reaches_the_named(front, servers, records(message(), 16384))


def one_byte_segments(front, servers):
    """SNI: one byte per segment"""
    return reaches_the_named(front, servers, records(message(), 16384), gap=0.002)


def two_records(front, servers):
    """SNI: two records"""
    whole = message()
    return reaches_the_named(front, servers, records(whole, len(whole) // 2 + 1))


def small_records(front, servers):
    """SNI: 16-byte records"""
    return reaches_the_named(front, servers, records(message(), 16))


def hello_of_12_kb(front, servers):
    """SNI: 12 KB hello"""
    return reaches_the_named(front, servers, records(message(12_000), 16384))


def hello_of_17_kb(front, servers):
    """SNI: 17 KB hello in two records"""
    return reaches_the_named(front, servers, records(message(17_000), 16384))


PROBES = [
    one_record,
    one_byte_segments,
    two_records,
    small_records,
    hello_of_12_kb,
    hello_of_17_kb,
]
