#!/usr/bin/env python3
"""The 30 probes of what a layer-4 balancer must survive, against lbd and its peers.

    scripts/probes.py [--lbd target/release/lbd] [--only 3,4]

Prints one row a probe. HAProxy and nginx (stream) run beside lbd where they are installed, with
their tunnel timeouts set and, for nginx, half-close on. All traffic stays on 127.0.0.1; every
process is started here and ended by its handle.
"""

import argparse
import shutil
import sys
import tempfile

# Nothing is left behind in the folder of the scripts.
sys.dont_write_bytecode = True

from probes import closing, hello, proxy
from probes.balancers import Balancer
from probes.common import free_ports

PROBES = closing.PROBES + hello.PROBES + proxy.PROBES


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lbd", default="target/release/lbd")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    only = {int(number) for number in options.only.split(",") if number}
    chosen = [(n, probe) for n, probe in enumerate(PROBES, 1) if not only or n in only]
    kinds = ["lbd"] + [kind for kind in ("haproxy", "nginx") if shutil.which(kind)]
    servers = free_ports(2)
    passes = dict.fromkeys(kinds, 0)
    with tempfile.TemporaryDirectory() as folder:
        balancers = {kind: Balancer(kind, options.lbd, servers, folder) for kind in kinds}
        width = max(len(probe.__doc__) for _, probe in chosen)
        print(f"{'#':>2}  {'probe':{width}}" + "".join(f"{kind:>9}" for kind in kinds))
        for number, probe in chosen:
            row = f"{number:>2}  {probe.__doc__:{width}}"
            for kind, balancer in balancers.items():
                try:
                    passed = probe(balancer.port, servers)
                except OSError as error:
                    passed = False
                    print(f"    {number} {kind}: {error}", file=sys.stderr)
                passes[kind] += passed
                row += f"{'pass' if passed else 'FAIL':>9}"
            print(row, flush=True)
        print(f"    {f'of {len(chosen)}':{width}}" + "".join(f"{passes[kind]:>9}" for kind in kinds))
        for balancer in balancers.values():
            balancer.end()
    return 0 if passes["lbd"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
