"""Figures that an option names: where they are written, and what they may replace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import FitError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "figure_files"]

_ENDINGS = (".png", ".pdf", ".svg")
_MARK = "raysweep figure"
_DPI = 150


def figure_files(command: str, name: str | None, count: int = 1) -> list[Path]:
    """The files of `count` figures: FILE, then FILE with -2, -3, ... before its ending. None where no file is named.

    Raises:
        FitError: A file has another ending, lies in no folder, or holds anything but a figure of raysweep.
    """
    from raysweep.replacing import replaceable

    if name is None:
        return []
    path = Path(name)
    if path.suffix not in _ENDINGS or not path.parent.is_dir() or path.is_dir():
        raise FitError(
            f"{command}: --figure must be a .png, .pdf or .svg in a folder that exists, but got {name!r}. Name such a "
            "file"
        )
    files = [path, *(path.with_stem(f"{path.stem}-{i}") for i in range(2, count + 1))]
    for file in files:
        if not replaceable(file, lambda content: _MARK.encode() in content):
            raise FitError(
                f"{command}: --figure must be a new file, or a figure that raysweep drew, but got {str(file)!r}, which "
                "holds something else. Name another, or remove it first"
            )
    return files


def draw(figure: Figure, file: Path) -> None:
    """Write a figure, marked as one that may be replaced.

    Raises:
        FitError: The file cannot be written.
    """
    from raysweep.reports.style import tame

    key = "Software" if file.suffix == ".png" else "Creator"
    try:
        tame(figure).savefig(file, dpi=_DPI, metadata={key: _MARK})
    except OSError as error:
        raise FitError(
            f"--figure must be a file that can be written, but {file} is not: {error}. Name another"
        ) from error
