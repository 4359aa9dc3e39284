"""A classifier one of whose workers dies or stalls in mid-training, as files say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from raysweep.axes import Axis
from raysweep.experiment import Context, Share
from raysweep.experiments.classifier import Classifier
from raysweep.experiments.classifier_axes import AXES
from raysweep.grid.runs import Runs

AT = 9  # the sum in which it happens: one at the start, then one per step


@dataclass(frozen=True)
class Fragile(Classifier):
    """In worker 1, a file `kill-WIDTH` among the markers kills it (once), and `stall-WIDTH` stops it."""

    name: str = "fragile_classifier"
    axes: tuple[Axis, ...] = (*AXES, Axis("markers", str, "shape", ""))

    def run(self, pack: Runs, context: Context) -> Iterator[pa.RecordBatch]:
        share = context.share
        if share is not None and share.rank == 1:
            context = replace(context, share=_hurt(share, Path(pack.value("markers")), pack.value("width")))
        return super().run(pack, context)


def _hurt(share: Share, markers: Path, width: int) -> Share:
    done = 0

    def add(tensor: Tensor) -> None:
        nonlocal done
        done += 1
        if done == AT and (kill := markers / f"kill-{width}").exists():
            kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        while done == AT and (markers / f"stall-{width}").exists():
            time.sleep(0.1)
        share.add(tensor)

    return replace(share, add=add)


EXPERIMENT = Fragile()
