"""`raysweep` in a process that joined a Ray cluster through the node at an address, as on another machine.

python fault_driver.py GCS_ADDRESS NODE_ADDRESS run FILE --store STORE ...
"""

from __future__ import annotations

import sys

import ray

import raysweep.executors.raytune  # noqa: F401  (sets what Ray reads at import)
from raysweep.cli import main

if __name__ == "__main__":
    _, address, node, *arguments = sys.argv
    ray.init(address=address, _node_ip_address=node, namespace="raysweep", log_to_driver=False)
    sys.argv = ["raysweep", *arguments]
    main()
