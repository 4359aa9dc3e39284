"""`steady` for a store on `flaky://`, which importing this module registers with fsspec in every process."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from toy_experiment import steady

__all__ = ["FAILING", "steady"]

FAILING = 0.3  # of the writes
_draw = random.Random(int(os.environ.get("FLAKY_SEED", "0")) + os.getpid())


class Flaky(LocalFileSystem):  # type: ignore[misc]
    """A shared folder where some writes stop half-way with an error, and leave what they wrote."""

    protocol = "flaky"

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        if mode == "wb" and _draw.random() < FAILING:
            opened.close()
            Path(self._strip_protocol(path)).write_bytes(b"PAR1half")
            with open(Path(self._strip_protocol(path)).parent.parent / "failures", "a") as log:
                log.write(f"{path}\n")
            raise OSError(5, "Input/output error")
        return opened


fsspec.register_implementation("flaky", Flaky, clobber=True)
