"""Makes this version's stores, to be read by every later one; those of earlier versions stay as they are.

Run at a release: .venv/bin/python tests/stores/make_stores.py   (writes tests/stores/<version>/, which must not exist)
"""

from __future__ import annotations

from pathlib import Path

from raysweep import __version__
from raysweep.executors import make_executor
from raysweep.ledger.log import CELLS
from raysweep.run import run
from raysweep.store import Store
from raysweep.sweep import load_sweep

HERE = Path(__file__).parent

if __name__ == "__main__":
    (HERE / __version__).mkdir()
    for name in ("function", "classifier"):
        outcome = run(load_sweep(HERE / f"{name}.yaml"), Store(str(HERE / __version__ / name)), make_executor("inline"))
        (HERE / __version__ / name / CELLS).unlink()  # a copy of the ledger, which any version makes again
        print(name, outcome.counts)
