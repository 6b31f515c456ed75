#!/usr/bin/env bash
# The pictures of the dashboard in the README: lbd before small servers and under live traffic, one
# backend down and one draining, in light and dark. Needs chromium, chromedriver and python3;
# pngquant, where it is, makes them a third as big.
#
#   scripts/screenshot.sh            takes two minutes; LBD=PATH names another binary
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LBD=${LBD:-target/release/lbd} python3 - <<'PYTHON'
import base64, json, os, random, socket, subprocess, tempfile, threading, time, urllib.request

TOKEN = "for-the-screenshot-only"

def free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

def serve(listener, pause, size):
    def answer(peer):
        with peer:
            try:
                if peer.recv(4096):
                    time.sleep(random.expovariate(1 / pause))
                    peer.sendall(bytes(random.randrange(size)))
            except OSError:
                pass
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(peer,), daemon=True).start()

def load(port, rate):
    def once():
        try:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(bytes(random.randrange(100, 2000)))
                while peer.recv(65536):
                    pass
        except OSError:
            pass
    while True:
        threading.Thread(target=once, daemon=True).start()
        time.sleep(random.expovariate(rate * (1 + 0.5 * random.random())))

def call(to, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer " + TOKEN}
    asked = urllib.request.Request(to, data=data, headers=headers, method=method)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)

POOLS = {"web": ("least_connections", 4, 0.05, 60000, 22), "api": ("two_choices", 3, 0.02, 8000, 12),
         "postgres": ("failover", 2, 0.2, 20000, 3)}
folder = tempfile.TemporaryDirectory()
admin, text, servers = free(), "", {}
for name, (policy, number, pause, size, rate) in POOLS.items():
    port = free()
    text += f'[[listener]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\npool = "{name}"\n'
    text += f'[[pool]]\nname = "{name}"\npolicy = "{policy}"\nhealth = {{ probe = "tcp", interval = "500ms" }}\n'
    for at in range(1, number + 1):
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        servers[name, at] = listener
        threading.Thread(target=serve, args=(listener, pause, size), daemon=True).start()
        text += f'[[pool.backend]]\nname = "{name}-{at}"\naddress = "127.0.0.1:{listener.getsockname()[1]}"\n'
    threading.Thread(target=load, args=(port, rate), daemon=True).start()
token = os.path.join(folder.name, "token")
with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
    file.write(TOKEN)
config = os.path.join(folder.name, "lb.toml")
with open(config, "w") as file:
    file.write(f'[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{admin}"\nsocket = "{folder.name}/admin.sock"\n'
               f'token_file = "{token}"\n{text}')
driver, page = f"http://127.0.0.1:{free()}", f"http://127.0.0.1:{admin}/"
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
children = [subprocess.Popen([os.environ["LBD"], "--config", config], stdout=subprocess.DEVNULL),
            subprocess.Popen(["chromedriver", "--port=" + driver.rsplit(":")[-1]], **quiet)]
session = None
try:
    time.sleep(2)
    options = {"args": ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"]}
    wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
    session = driver + "/session/" + call(driver + "/session", wanted)["value"]["sessionId"]
    def tell(cmd, **params):
        return call(session + "/goog/cdp/execute", {"cmd": cmd, "params": params})["value"]
    # High enough for all of it: rows out of sight are not drawn.
    tell("Emulation.setDeviceMetricsOverride", width=1440, height=1600, deviceScaleFactor=1, mobile=False)
    call(session + "/url", {"url": page})
    seconds = float(os.environ.get("SECONDS_OF_TRAFFIC", "120"))
    time.sleep(seconds * 0.7)
    # A socket that another thread accepts on stays open until it is shut down.
    servers["web", 2].shutdown(socket.SHUT_RDWR)
    servers["web", 2].close()
    call(page + "api/v1/pools/api/backends/api-1", {"state": "drain", "reason": "kernel update"})
    time.sleep(seconds * 0.3)
    for scheme, name in ("light", "dashboard"), ("dark", "dashboard-dark"):
        tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(1)
        height = int(call(session + "/execute/sync", {"script": "return document.querySelector('main').getBoundingClientRect().bottom", "args": []})["value"])
        clip = {"x": 0, "y": 0, "width": 1440, "height": height, "scale": 1}
        picture = tell("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        with open(f"scripts/{name}.png", "wb") as file:
            file.write(base64.b64decode(picture["data"]))
finally:
    if session:
        call(session, method="DELETE")
    for child in children:
        child.terminate()
        child.wait()
PYTHON
if command -v pngquant >/dev/null; then
    pngquant --force --ext .png 256 scripts/dashboard.png scripts/dashboard-dark.png
fi
