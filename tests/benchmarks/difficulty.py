"""Difficulty before training: targets whose beta is known, and real images.

    RAYSWEEP_DATA=folder python tests/benchmarks/difficulty.py [--device cuda] [--items 4096] [--memory-gib 24] \
        [--tasks circle digits mnist ...] [--out DIR]

Circle: targets of beta 0.25 to 1.5 on the circle and an mlp of three hidden layers. Images (names of .npz in
RAYSWEEP_DATA): mlp, cnn and resnet. Writes difficulty-<device>.json beside this file, or into DIR.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import date
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from raysweep.forecast import forecast  # noqa: E402
from raysweep.task import task_of  # noqa: E402

BETAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
MODELS = {"mlp": (1024, 3), "cnn": (64, 3), "resnet": (16, 1)}  # width, depth


def main() -> None:
    """Measure each task with each of its networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--tasks", nargs="+", default=["circle", "digits"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    cases = []
    for name in asked.tasks:
        cases += [(f"circle:{b:g}", "mlp") for b in BETAS] if name == "circle" else [(name, m) for m in asked.models]
    rows = []
    for name, model in cases:
        (width, depth), started = MODELS[model], time.perf_counter()
        made = forecast(
            task_of(name), model, width, depth, items=asked.items, seeds=asked.seeds, device=asked.device,
            memory=int(asked.memory_gib * 2**30),
        )  # fmt: skip
        record = made.to_json()
        del record["spectrum"]
        rows.append({**record, "seconds": time.perf_counter() - started})
        alpha, beta = made.alpha, made.beta
        print(
            f"{name} {model}: alpha {alpha.value:.3f} [{alpha.low:.3f}, {alpha.high:.3f}], beta {beta.value:.3f} "
            f"[{beta.low:.3f}, {beta.high:.3f}], drift {beta.drift:+.3f}, mixing {beta.mixing:+.3f}, {made.verdict}, "
            f"{rows[-1]['seconds']:.1f} s",
            flush=True,
        )
    about = {"date": date.today().isoformat(), "device": device, "python": platform.python_version()}
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"difficulty-{device.lower().replace(' ', '-')}.json"
    file.write_text(json.dumps({**about, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
