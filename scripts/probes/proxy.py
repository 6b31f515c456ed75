"""Probes 17 to 30: headers of the PROXY protocol, taken or refused as its specification says."""

import struct
import time

from probes.common import Server, connect, read_all, send_slowly

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY, UNDEFINED = 0x20, 0x21, 0x22
UNSPECIFIED, TCP_OVER_IPV4 = 0x00, 0x11
CRC32C, AUTHORITY = 0x03, 0x02
# 192.0.2.7:4711 connected to 203.0.113.9:443.
ADDRESSES = bytes([192, 0, 2, 7, 203, 0, 113, 9]) + struct.pack("!HH", 4711, 443)
SOURCE = "192.0.2.7"
SOCKET = "127.0.0.1"


def v2(command, family, block):
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


def tlv(kind, value):
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def told(front, servers, header, gap=None):
    """The source that the server is told, `None` if it was never told the client's question."""
    heard = []

    def script(connection):
        got = b""
        while not got.endswith(b"question"):
            piece = connection.recv(65536)
            if not piece:
                return
            got += piece
        heard.append(got)
        connection.sendall(b"answer")

    with Server(servers[0], script), connect(front["proxy"]) as client:
        try:
            if gap is None:
                client.sendall(header + b"question")
            else:
                send_slowly(client, header + b"question", gap)
        except ConnectionError:
            pass
        answer, _ = read_all(client)
    if not heard or answer != b"answer":
        return None
    # "PROXY TCP4 source destination ports", before the question and with nothing in between.
    line, _, rest = heard[0].partition(b"\r\n")
    words = line.decode("latin-1").split(" ")
    return words[2] if rest == b"question" and words[:2] == ["PROXY", "TCP4"] else "nonsense"


def refused(front, servers, header):
    return told(front, servers, header) is None


def v2_of_a_client(front, servers):
    """v2 PROXY: the client is who the header says"""
    return told(front, servers, v2(PROXY, TCP_OVER_IPV4, ADDRESSES)) == SOURCE


def v2_local_with_address(front, servers):
    """v2 LOCAL with an address: the client is who connected"""
    return told(front, servers, v2(LOCAL, TCP_OVER_IPV4, ADDRESSES)) == SOCKET


def v2_local_empty(front, servers):
    """v2 LOCAL without one"""
    return told(front, servers, v2(LOCAL, UNSPECIFIED, b"")) == SOCKET


def v2_undefined_command(front, servers):
    """v2 undefined command refused"""
    return refused(front, servers, v2(UNDEFINED, TCP_OVER_IPV4, ADDRESSES))


def v2_short_address(front, servers):
    """v2 short address refused"""
    return refused(front, servers, v2(PROXY, TCP_OVER_IPV4, ADDRESSES[:8]))


def v2_tlv_past_the_end(front, servers):
    """v2 TLV past the end refused"""
    long = bytes([AUTHORITY]) + (500).to_bytes(2, "big") + b"api.test"
    return refused(front, servers, v2(PROXY, TCP_OVER_IPV4, ADDRESSES + long))


def v2_stray_byte(front, servers):
    """v2 stray byte after a TLV refused"""
    block = ADDRESSES + tlv(AUTHORITY, b"api.test") + b"\0"
    return refused(front, servers, v2(PROXY, TCP_OVER_IPV4, block))


def v2_wrong_crc(front, servers):
    """v2 wrong CRC-32C refused"""
    block = ADDRESSES + tlv(CRC32C, b"\xde\xad\xbe\xef")
    return refused(front, servers, v2(PROXY, TCP_OVER_IPV4, block))


def v1_of_a_client(front, servers):
    """v1: the client is who the line says"""
    return told(front, servers, b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n") == SOURCE


def v1_leading_zeros(front, servers):
    """v1 leading zeros refused"""
    return refused(front, servers, b"PROXY TCP4 192.000.002.007 203.0.113.9 04711 0443\r\n")


def v1_port_70000(front, servers):
    """v1 port 70000 refused"""
    return refused(front, servers, b"PROXY TCP4 192.0.2.7 203.0.113.9 70000 443\r\n")


def v1_without_cr(front, servers):
    """v1 line without CR refused"""
    return refused(front, servers, b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\n")


def no_header(front, servers):
    """no header refused"""
    return refused(front, servers, b"")


def dribbled(front, servers):
    """header dribbled over 4 s, cut by a 1 s limit"""
    header = v2(PROXY, TCP_OVER_IPV4, ADDRESSES)
    began = time.monotonic()
    source = told(front, servers, header, gap=4 / len(header))
    return source is None and time.monotonic() - began < 3


PROBES = [
    v2_of_a_client,
    v2_local_with_address,
    v2_local_empty,
    v2_undefined_command,
    v2_short_address,
    v2_tlv_past_the_end,
    v2_stray_byte,
    v2_wrong_crc,
    v1_of_a_client,
    v1_leading_zeros,
    v1_port_70000,
    v1_without_cr,
    no_header,
    dribbled,
]
