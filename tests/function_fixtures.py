"""Fixtures that run a user's function into one store."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from function_tools import Go

from raysweep.executors import make_executor
from raysweep.run import Outcome, run
from raysweep.store import Store
from raysweep.sweep import from_mapping


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Runs a function over a grid into one store."""

    def go_(train: Any, grid: Mapping[str, Any], observed: tuple[str, ...] = (), **more: Any) -> Outcome:
        sweep = from_mapping({"name": "t", "experiment": train, "grid": grid, "observed": observed, **more})
        return run(sweep, Store(str(tmp_path / "store")), make_executor("inline"), stream=io.StringIO)

    return go_


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a function of this text over a grid, into the same store each time."""

    def work_(
        text: str | Callable[..., Any], grid: Mapping[str, Any], said: io.StringIO | None = None, **more: Any
    ) -> Outcome:
        options = {key: more.pop(key) for key in ("accept_code", "same_as") if key in more}
        code: Any = text
        if isinstance(text, str):
            name = f"made_{abs(hash((text, str(tmp_path))))}"
            (tmp_path / f"{name}.py").write_text(text)
            code = f"{name}:train"
        sweep = from_mapping({"name": "s", "experiment": code, "grid": grid, **more}, "s.yaml", [tmp_path])
        return run(
            sweep,
            Store(str(tmp_path / "store")),
            make_executor("inline"),
            stream=lambda: said or io.StringIO(),
            **options,
        )

    return work_
