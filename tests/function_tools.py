"""Functions that tests run, and what they left in the store of a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from raysweep.ledger.log import CELLS
from raysweep.run import Outcome
from raysweep.store import Store

Go = Callable[..., Outcome]
GRID = {"size": [10, 100, 1000], "seed": {"range": 3}}
FIRST = "import {helper}\ndef train(config):\n    return {{'loss': {helper}.scale() / config['n']}}\n"


def table(tmp_path: Path, name: str = CELLS) -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "store" / name)


def halves(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["size"] ** -0.5}


def wholes(config: dict[str, Any]) -> dict[str, float]:
    return {"loss": config["size"] ** -1.0}


def edited(tmp_path: Path, helper: str, text: str) -> str:
    (tmp_path / f"{helper}.py").write_text(text)
    return FIRST.format(helper=helper)


def codes(tmp_path: Path) -> dict[str, str]:
    """The hash of the code that was last seen of each function."""
    entries = json.loads((tmp_path / "store/code.json").read_text())
    return {key.partition("@")[0]: entry["last"] for key, entry in entries.items()}


def store_of(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))
