"""Functions that tests run as a user's own experiment. Behaviour is steered by files, so that a rerun may differ."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def train(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A made-up loss that falls with size and epoch."""
    for epoch in range(1, max(config["epoch"]) + 1):
        yield {"epoch": epoch, "loss": config["size"] ** -0.5 / epoch * (1 + 0.01 * config["seed"])}


def slow(config: dict[str, Any]) -> dict[str, Any]:
    """Takes a moment, so that it can be interrupted; the runs that the environment says are stuck never end."""
    time.sleep(600 if config["run_id"] >= int(os.environ.get("RAYSWEEP_TEST_STUCK", "1000")) else config["duration"])
    return {"loss": 1.0 / (1 + config["run_id"])}


def fragile(config: dict[str, Any]) -> dict[str, Any]:
    """Dies by SIGKILL or raises when it meets a run that a marker names: once for a file, always for a folder."""
    marker = Path(config["markers"]) / f"{config['how']}-{config['run_id']}"
    if marker.exists():
        if marker.is_file():
            marker.unlink()
        if config["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(f"run {config['run_id']} was told to fail")
    return {"loss": 1.0 / (1 + config["run_id"])}


def steady(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row each `duration` seconds; while it runs, a file named by its process says which run is at work there."""
    marker = Path(config["state"]) / str(os.getpid())
    marker.write_text(str(config["run_id"]))
    for epoch in config["epoch"]:
        time.sleep(config["duration"])
        yield {"epoch": epoch, "loss": steady_loss(config["run_id"], epoch)}
    marker.unlink(missing_ok=True)


def steady_loss(run_id: int, epoch: int) -> float:
    """What `steady` measures."""
    return 1.0 / (1 + run_id) + 1.0 / epoch


def dies(config: dict[str, Any]) -> dict[str, Any]:
    """Takes its worker down in one of several ways, every time."""
    if config["how"] == "exit":
        os._exit(3)
    if config["how"] == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"loss": 1.0 / (1 + config["run_id"])}


def picky(config: dict[str, Any]) -> dict[str, Any]:
    """Fails wherever the environment says that the host is bad; elsewhere eight runs end before five have failed there.

    So the bad host gets its share, however long a busy machine takes to start workers there, and there are results to
    compare it with.
    """
    state = Path(config["state"])
    if os.environ.get("RAYSWEEP_TEST_BAD"):
        (state / f"bad-{config['run_id']}").touch()
        time.sleep(0.5)
        raise OSError(f"no driver here, run {config['run_id']}")
    wanted = 1 if len(list(state.glob("good-*"))) < 8 else 5
    end = time.monotonic() + 120
    while len(list(state.glob("bad-*"))) < wanted and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.1)
    (state / f"good-{config['run_id']}").touch()
    return {"loss": 1.0 / (1 + config["run_id"])}


def tunable(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A loss whose best rate falls with size, with noise from the seed and the rate; a rate above 0.5 raises."""
    size, lr = config["size"], config["lr"]
    if lr > 0.5:
        raise ValueError("the rate is too high")
    noise = random.Random(f"{size} {lr} {config['seed']}").gauss
    for epoch in config["epoch"]:
        loss = size**-0.5 / epoch * (1 + math.log(lr * size**0.25 / 0.3) ** 2)
        yield {"epoch": epoch, "loss": loss * noise(1, 0.01), "loss_select": loss * noise(1, 0.01)}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Noise about 1 that no rate changes."""
    return {"loss": 1 + 0.1 * random.Random(f"{config['size']} {config['lr']} {config['seed']}").gauss(0, 1)}


def gained(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same, which raises wherever the gain is 0."""
    if not config["gain"]:
        raise ValueError("nothing to train with")
    yield from tunable(config)
