"""A training whose loss follows a law that is known, with its noise and its FLOPs, for sweeps that stop themselves."""

from __future__ import annotations

import math
import random
from typing import Any

ALPHA = 0.4


def train(config: dict[str, Any]) -> dict[str, Any]:
    """A power of size; beyond `bend`, a steeper one."""
    size, noise = config["size"], random.Random(f"{config['size']} {config['seed']}").gauss(0, 0.05)
    beyond = math.log1p((size / config["bend"]) ** 4) / 4 if config["bend"] else 0.0
    return {"loss": 3 * size**-ALPHA * math.exp(noise - beyond), "flops": 1e6 * size}


def silent(config: dict[str, Any]) -> dict[str, Any]:
    """The same, without its FLOPs."""
    return {"loss": train(config)["loss"]}
