"""What a layer-4 balancer must survive; `scripts/probes.py` runs it."""
