"""Probes 1 to 10: how connections end, who is tried when a server refuses, who counts as idle."""

import os
import socket
import threading
import time

from probes.common import END, RESET, Server, connect, read_all, reset


def client_half_closes(front, servers):
    """client half-closes, then the server answers"""

    def script(connection):
        asked, _ = read_all(connection)
        time.sleep(0.2)
        connection.sendall(b"answer to " + asked)

    with Server(servers[0], script), connect(front["plain"]) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        return read_all(client) == (b"answer to question", END)


def server_half_closes(front, servers):
    """server half-closes, then the client uploads 100 kB"""
    received = []
    done = threading.Event()

    def script(connection):
        connection.sendall(b"go")
        connection.shutdown(socket.SHUT_WR)
        received.append(read_all(connection))
        done.set()

    with Server(servers[0], script), connect(front["plain"]) as client:
        first = read_all(client)
        time.sleep(0.2)
        try:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        done.wait(5)
        return first == (b"go", END) and received == [(b"x" * 100_000, END)]


def server_resets(front, servers):
    """server resets after partial data: the client must not see a clean end"""

    def script(connection):
        connection.recv(10)
        connection.sendall(b"part")
        time.sleep(0.2)
        reset(connection)

    with Server(servers[0], script), connect(front["plain"]) as client:
        client.sendall(b"question")
        return read_all(client) == (b"part", RESET)


def client_resets(front, servers):
    """client resets: the server must see it"""
    ended = []
    done = threading.Event()

    def script(connection):
        ended.append(read_all(connection)[1])
        done.set()

    with Server(servers[0], script):
        client = connect(front["plain"])
        client.sendall(b"question")
        time.sleep(0.2)
        reset(client)
        done.wait(5)
        return ended == [RESET]


def late_reader(front, servers):
    """5 MB to a reader that starts 0.8 s late"""
    data = os.urandom(5_000_000)

    def script(connection):
        connection.recv(10)
        connection.sendall(data)

    with Server(servers[0], script), connect(front["plain"]) as client:
        client.sendall(b"question")
        time.sleep(0.8)
        return read_all(client) == (data, END)


def early_answer(front, servers):
    """early 100 kB answer while a 3 MB upload is unread"""
    answer = os.urandom(100_000)

    def script(connection):
        connection.recv(10)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        time.sleep(1)

    with Server(servers[0], script), connect(front["plain"]) as client:
        client.settimeout(0.5)
        try:
            client.sendall(b"x" * 3_000_000)
        except OSError:
            pass
        client.settimeout(20)
        return read_all(client)[0] == answer


def refused(front, _):
    """server refuses: the client is told at once"""
    began = time.monotonic()
    with connect(front["plain"]) as client:
        got, _ = read_all(client)
    return got == b"" and time.monotonic() - began < 1


def one_of_two_refuses(front, servers):
    """one of two servers refuses, 4 connections"""

    def script(connection):
        connection.recv(10)
        connection.sendall(b"answer")

    served = 0
    with Server(servers[0], script):
        for _ in range(4):
            with connect(front["two"]) as client:
                try:
                    client.sendall(b"question")
                except OSError:
                    continue
                served += read_all(client)[0] == b"answer"
    return served == 4


def one_way_stream(front, servers):
    """one-way stream of 2.7 s, 1 s idle limit"""

    def script(connection):
        for _ in range(9):
            connection.sendall(b"tick")
            time.sleep(0.3)

    with Server(servers[0], script), connect(front["idle1"]) as client:
        return read_all(client) == (b"tick" * 9, END)


def steady_slow_reader(front, servers):
    """steady slow reader of 5 MB, 3 s idle limit"""
    size = 5_000_000

    def script(connection):
        connection.recv(10)
        connection.sendall(b"x" * size)

    with Server(servers[0], script), connect(front["idle3"], receive_buffer=4096) as client:
        client.sendall(b"question")
        got, began = 0, time.monotonic()
        while True:
            try:
                piece = client.recv(65536)
            except ConnectionError:
                return False
            if not piece:
                return got == size
            got += len(piece)
            # 200 kB/s: slow enough that a balancer with full buffers waits longer than its limit.
            ahead = got / 200_000 - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)


PROBES = [
    client_half_closes,
    server_half_closes,
    server_resets,
    client_resets,
    late_reader,
    early_answer,
    refused,
    one_of_two_refuses,
    one_way_stream,
    steady_slow_reader,
]
