"""Scripted peers: servers that play a script, clients that see how a connection ends."""

import socket
import struct
import threading
import time

RESET = "reset"
END = "end"


def free_ports(count):
    """Ports nobody listens on right now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Server:
    """Runs `script(connection)` on a thread for each connection to `port`."""

    def __init__(self, port, script):
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.script = script
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.run, args=(connection,), daemon=True).start()

    def run(self, connection):
        connection.settimeout(20)
        try:
            with connection:
                self.script(connection)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Wakes the accept, which a close alone does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def connect(port, receive_buffer=None):
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def send_slowly(connection, data, gap):
    """Each byte in a segment of its own, with so many seconds between them."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(gap)


def read_all(connection):
    """Bytes until the end, and how it came."""
    got = bytearray()
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionError:
            return bytes(got), RESET
        if not piece:
            return bytes(got), END
        got += piece


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
