#!/usr/bin/env python3
"""The first ten probes of what a layer-4 balancer must survive, against lbd and its peers.

    scripts/probes.py [--lbd target/release/lbd] [--only 3,4]

Prints one row a probe. HAProxy and nginx (stream) run beside lbd where they are installed, with
their tunnel timeouts set and, for nginx, half-close on. All traffic stays on 127.0.0.1; every
process is started here and ended by its handle.
"""

import argparse
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
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


# ---- the balancers --------------------------------------------------------------------------

# Listeners, each in front of the scripted server: (name, idle limit in s, servers).
LISTENERS = [("plain", 60, 1), ("idle1", 1, 1), ("idle3", 3, 1), ("two", 60, 2)]


def lbd_config(fronts, servers):
    text = '[log]\naccess = "off"\nlevel = "error"\n'
    for (name, idle, count), port in zip(LISTENERS, fronts):
        text += f'[[listener]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\npool = "{name}"\n'
        text += f'idle_timeout = "{idle}s"\n[[pool]]\nname = "{name}"\n'
        text += 'ejection = { connect_failures = 0 }\n[pool.health]\nprobe = "none"\n'
        for server in servers[:count]:
            text += f'[[pool.backend]]\naddress = "127.0.0.1:{server}"\n'
    return text


def haproxy_config(fronts, servers):
    text = "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 2s\n  option redispatch 1\n"
    text += "  retries 2\n"
    for (name, idle, count), port in zip(LISTENERS, fronts):
        text += f"listen {name}\n  bind 127.0.0.1:{port}\n"
        text += f"  timeout client {idle}s\n  timeout server {idle}s\n  timeout tunnel {idle}s\n"
        for index, server in enumerate(servers[:count]):
            text += f"  server s{index} 127.0.0.1:{server}\n"
    return text


def nginx_config(fronts, servers, folder):
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    text = f"load_module {module};\n" if os.path.exists(module) else ""
    text += f"daemon off;\npid {folder}/nginx.pid;\nerror_log /dev/null;\n"
    text += "events { worker_connections 512; }\nstream {\n"
    for (name, idle, count), port in zip(LISTENERS, fronts):
        text += f"upstream {name} {{\n"
        text += "".join(f"  server 127.0.0.1:{server} max_fails=0;\n" for server in servers[:count])
        text += f"}}\nserver {{ listen 127.0.0.1:{port}; proxy_pass {name}; "
        text += f"proxy_timeout {idle}s; proxy_half_close on; }}\n"
    return text + "}\n"


class Balancer:
    """A running balancer: a port for each listener."""

    def __init__(self, kind, lbd, servers, folder):
        ports = free_ports(len(LISTENERS))
        path = os.path.join(folder, kind)
        if kind == "lbd":
            text, command = lbd_config(ports, servers), [lbd, "--config", path]
        elif kind == "haproxy":
            text, command = haproxy_config(ports, servers), ["haproxy", "-db", "-f", path]
        else:
            text, command = nginx_config(ports, servers, folder), ["nginx", "-c", path, "-p", folder]
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        self.port = dict(zip([name for name, _, _ in LISTENERS], ports))
        deadline = time.monotonic() + 5
        while True:
            try:
                socket.create_connection(("127.0.0.1", ports[0]), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.process.kill()
                    raise SystemExit(f"{kind} does not start") from None
                time.sleep(0.02)

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()


# ---- scripted peers -------------------------------------------------------------------------


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


# ---- the probes: each says whether the balancer passes --------------------------------------


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lbd", default="target/release/lbd")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    only = {int(number) for number in options.only.split(",") if number}
    kinds = ["lbd"] + [kind for kind in ("haproxy", "nginx") if shutil.which(kind)]
    servers = free_ports(2)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        balancers = {kind: Balancer(kind, options.lbd, servers, folder) for kind in kinds}
        print(f"{'#':>2}  {'probe':62}" + "".join(f"{kind:>9}" for kind in kinds))
        for number, probe in enumerate(PROBES, 1):
            if only and number not in only:
                continue
            row = f"{number:>2}  {probe.__doc__:62}"
            for kind, balancer in balancers.items():
                try:
                    passed = probe(balancer.port, servers)
                except OSError as error:
                    passed = False
                    print(f"    {kind}: {error}", file=sys.stderr)
                failed += kind == "lbd" and not passed
                row += f"{'pass' if passed else 'FAIL':>9}"
            print(row, flush=True)
        for balancer in balancers.values():
            balancer.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
