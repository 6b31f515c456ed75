"""The balancers under test, each with the same listeners in front of the same two servers."""

import os
import socket
import subprocess
import time
from collections import namedtuple

from probes.common import free_ports

# `idle`: limit in seconds, for a header of the PROXY protocol too. `servers`: how many of the two.
# `kind`: plain; sni sends who asks for `NAMED` to the first server and the rest to the second;
# proxy awaits a header of the PROXY protocol, believes it, and sends one of version 1.
Listener = namedtuple("Listener", "name idle servers kind")

LISTENERS = [
    Listener("plain", 60, 1, "plain"),
    Listener("idle1", 1, 1, "plain"),
    Listener("idle3", 3, 1, "plain"),
    Listener("two", 60, 2, "plain"),
    Listener("sni", 60, 2, "sni"),
    Listener("proxy", 1, 1, "proxy"),
]

NAMED = "api.test"


def lbd_config(fronts, servers):
    text = '[log]\naccess = "off"\nlevel = "error"\n'
    for one, port in zip(LISTENERS, fronts):
        text += f'[[listener]]\nname = "{one.name}"\nbind = "127.0.0.1:{port}"\n'
        text += f'idle_timeout = "{one.idle}s"\n'
        if one.kind == "sni":
            text += 'pool = "other"\ntls = { mode = "passthrough" }\n'
            text += f'[[listener.route]]\nsni = ["{NAMED}"]\npool = "named"\n'
            text += lbd_pool("named", servers[:1]) + lbd_pool("other", servers[1:])
            continue
        text += f'pool = "{one.name}"\n'
        send = "off"
        if one.kind == "proxy":
            text += f'accept_proxy = {{ from = ["127.0.0.0/8"], timeout = "{one.idle}s" }}\n'
            send = "v1"
        text += lbd_pool(one.name, servers[: one.servers], send)
    return text


def lbd_pool(name, servers, send="off"):
    text = f'[[pool]]\nname = "{name}"\nsend_proxy = "{send}"\n'
    text += 'ejection = { connect_failures = 0 }\n[pool.health]\nprobe = "none"\n'
    for server in servers:
        text += f'[[pool.backend]]\naddress = "127.0.0.1:{server}"\n'
    return text


def haproxy_config(fronts, servers):
    text = "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 2s\n"
    text += "  option redispatch 1\n  retries 2\n"
    for one, port in zip(LISTENERS, fronts):
        accept = " accept-proxy" if one.kind == "proxy" else ""
        text += f"frontend {one.name}\n  bind 127.0.0.1:{port}{accept}\n"
        text += f"  timeout client {one.idle}s\n"
        pools = {one.name: servers[: one.servers]}
        if one.kind == "sni":
            text += "  tcp-request inspect-delay 5s\n"
            text += "  tcp-request content accept if { req.ssl_hello_type 1 }\n"
            text += f"  use_backend named if {{ req.ssl_sni -i {NAMED} }}\n"
            pools = {"other": servers[1:], "named": servers[:1]}
        text += f"  default_backend {next(iter(pools))}\n"
        send = " send-proxy" if one.kind == "proxy" else ""
        for pool, members in pools.items():
            text += f"backend {pool}\n  timeout server {one.idle}s\n  timeout tunnel {one.idle}s\n"
            for index, server in enumerate(members):
                text += f"  server s{index} 127.0.0.1:{server}{send}\n"
    return text


def nginx_config(fronts, servers, folder):
    module = "/usr/lib/nginx/modules/ngx_stream_module.so"
    text = f"load_module {module};\n" if os.path.exists(module) else ""
    text += f"daemon off;\npid {folder}/nginx.pid;\nerror_log /dev/null;\n"
    text += "events { worker_connections 512; }\nstream {\n"
    text += f"map $ssl_preread_server_name $by_name {{ {NAMED} named; default other; }}\n"
    text += nginx_pool("named", servers[:1]) + nginx_pool("other", servers[1:])
    for one, port in zip(LISTENERS, fronts):
        header = " proxy_protocol" if one.kind == "proxy" else ""
        to = "$by_name" if one.kind == "sni" else one.name
        if one.kind != "sni":
            text += nginx_pool(one.name, servers[: one.servers])
        text += f"server {{ listen 127.0.0.1:{port}{header}; proxy_pass {to}; "
        if one.kind == "sni":
            text += "ssl_preread on; "
        if one.kind == "proxy":
            text += f"proxy_protocol_timeout {one.idle}s; set_real_ip_from 127.0.0.0/8; "
            text += "proxy_protocol on; "
        text += f"proxy_timeout {one.idle}s; proxy_half_close on; }}\n"
    return text + "}\n"


def nginx_pool(name, servers):
    members = "".join(f"  server 127.0.0.1:{server} max_fails=0;\n" for server in servers)
    return f"upstream {name} {{\n{members}}}\n"


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
            text = nginx_config(ports, servers, folder)
            command = ["nginx", "-c", path, "-p", folder]
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        self.port = dict(zip([one.name for one in LISTENERS], ports))
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
