"""What a user's own code may report and query: `raysweep.report`, `raysweep.checkpoint`, its key and folder.

Everything here refers to the current run of this process. So that the same script also works by itself,
outside of a run `report` and `checkpoint.save` do nothing, `checkpoint.load` finds nothing, and the folder is the
working one.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from raysweep.errors import PackError

__all__ = [
    "Checkpoint", "Place", "Running", "checkpoint", "pause", "report", "resume", "run_dir", "run_key", "running",
]  # fmt: skip

_MOST = 1 << 32  # bytes of a checkpoint


class Place(Protocol):
    """The workplace of one run, lent by an executor: its folder, and where its checkpoint outlives the worker."""

    @property
    def folder(self) -> Path:
        """The run's own folder; it exists."""
        ...

    def load(self) -> tuple[bytes, Mapping[str, Any]] | None:
        """The last checkpoint that was kept: a tar file and the data kept with it."""
        ...

    def due(self) -> bool:
        """Whether to keep a checkpoint now."""
        ...

    def keep(self, data: bytes, about: Mapping[str, Any]) -> None:
        """Keep a checkpoint, replacing the last one, after the rows that came before it."""
        ...


@dataclass
class Running:
    """The current run.

    Attributes:
        key: Its key.
        accept: Receives a row.
        place: Its workplace; None where none was lent.
        about: Data to keep with a checkpoint: which cells were measured before it.
        usable: Whether the run can resume from a checkpoint, by the data kept with it.
        resumed: Called with the data kept with the checkpoint that was loaded.
        reported: Rows that were given by `report`.
        staged: A checkpoint that waits for the row that belongs to it.
        loose: Folders to delete at the end.
        outer: The run in which it was started, if any.
    """

    key: str
    accept: Callable[[Mapping[str, Any]], None]
    place: Place | None = None
    about: Callable[[], Mapping[str, Any]] = dict
    usable: Callable[[Mapping[str, Any]], bool] = lambda about: True
    resumed: Callable[[Mapping[str, Any]], None] = lambda about: None
    reported: int = 0
    staged: bytes | None = None
    loose: list[Any] = field(default_factory=list)
    outer: Running | None = None

    def commit(self, end: bool = False) -> None:
        """Keep the staged checkpoint, now that the rows before it were given."""
        if self.staged is not None and self.place is not None and (end or self.place.due()):
            self.place.keep(self.staged, self.about())
            self.staged = None


_current: Running | None = None


@contextlib.contextmanager
def running(run: Running) -> Iterator[None]:
    """Make this the current run."""
    run.outer = _current
    resume(run)
    try:
        yield
    finally:
        pause(run)
        for folder in run.loose:
            folder.cleanup()


def pause(run: Running) -> None:
    """Make its outer run the current one: before control is given away, which may never come back."""
    global _current
    if _current is run:  # else it was abandoned, and is cleaned up while another one runs
        _current = run.outer


def resume(run: Running) -> None:
    """Make this the current run again."""
    global _current
    _current = run


def report(_row: Mapping[str, Any] | None = None, **values: Any) -> None:
    """Report one row of the current run: metrics, and the values of its observed axes. Like `yield`, from anywhere.

    For loops that cannot yield: callbacks of Lightning, of Hugging Face's Trainer, of Keras.

    Args:
        _row: A mapping, for names that are not valid in Python.
        **values: Metrics and observed axes.

    Raises:
        Exception: the row contradicts the run, e.g. it is a second one for a cell.

    Example:
        >>> import raysweep
        >>> raysweep.report(epoch=3, loss=0.25)
    """
    if _current is not None:
        _current.reported += 1
        _current.accept({**(_row or {}), **values})
        _current.commit()


def run_key() -> str:
    """The key of the current run: 20 hex digits, the column `run` of its rows; "" outside of a run."""
    return "" if _current is None else _current.key


def run_dir() -> Path:
    """A folder of the run's own, which no other run uses; the working folder outside of a run."""
    if _current is None or _current.place is None:
        return Path.cwd()
    return _current.place.folder


class Checkpoint:
    """Files that survive the worker of the current run, and let a longer horizon resume where a shorter one ended.

    Example:
        >>> import raysweep
        >>> with raysweep.checkpoint.save() as folder:
        ...     written = (folder / "state.txt").write_text("epoch 3")
        >>> raysweep.checkpoint.load() is None  # outside of a run nothing is kept
        True
    """

    @contextlib.contextmanager
    def save(self) -> Iterator[Path]:
        """A folder to write files into. They are kept once the block has ended and the row that belongs to them was
        reported (the next `yield` or `report`, or the end of the run).
        """
        with tempfile.TemporaryDirectory(prefix="raysweep-") as scratch:
            yield Path(scratch)
            if _current is None or _current.place is None:
                return
            _current.staged = _packed(Path(scratch))

    def load(self) -> Path | None:
        """The folder with the files that were kept last; None in a new run."""
        if _current is None or _current.place is None:
            return None
        kept = _current.place.load()
        if kept is None:
            return None
        data, about = kept
        if not _current.usable(about):
            return None
        folder = tempfile.TemporaryDirectory(prefix="raysweep-")
        _current.loose.append(folder)
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(folder.name, filter="data")
        _current.resumed(about)
        return Path(folder.name)


checkpoint = Checkpoint()


def _packed(folder: Path) -> bytes:
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    if size > _MOST:
        raise PackError(f"checkpoint: at most {_MOST:,} bytes can be kept, but got {size:,}. Save less of the state")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
    return data.getvalue()
