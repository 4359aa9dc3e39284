"""A script as an experiment: a command line with a placeholder for each axis, and its result as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from raysweep.errors import SweepError, nearest
from raysweep.inside import run_dir, run_key

__all__ = ["Command", "check_command", "make_command"]

_OWN = ("run_dir", "run_key")  # placeholders that are no axes
_TAIL = 4000  # characters of standard error in a reason
_LINE = 1 << 24  # most characters read of one line of output


@dataclass(frozen=True)
class Command:
    """Runs a command once per run; each line of its output that is a JSON object is a row, or the last one is.

    Attributes:
        words: The command's words, each with `{axis}` where a value goes; no shell is involved.
        result: A file that holds the result instead, relative to the run's folder unless absolute.
        folder: Where the command is run: the sweep file's folder.
        observed: Axes whose values are in the rows. With them every JSON line is a row, without them only the last one.
    """

    words: tuple[str, ...]
    result: str
    folder: str
    observed: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """The local files that the command names, also as `-m module`."""
        folder = Path(self.folder)
        found = [folder / word for word in self.words if (folder / word).is_file()]
        for flag, word in pairwise(self.words):
            if flag == "-m":
                path = folder.joinpath(*word.split("."))
                found += [
                    p for p in (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py") if p.is_file()
                ]
        return found

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The rows of one run.

        Raises:
            RuntimeError: the command ends with a code other than 0, or gives no result; quotes its standard error.
        """
        values = {name: _shown(max(v) if isinstance(v, tuple) else v) for name, v in config.items()}
        values |= {"run_dir": str(run_dir()), "run_key": run_key()}
        words = [word.format_map(values) for word in self.words]
        words[0] = sys.executable if words[0] in ("python", "python3") else words[0]
        environment = {
            **os.environ,
            "RAYSWEEP_RUN_DIR": values["run_dir"],
            "RAYSWEEP_RUN_KEY": values["run_key"],
            "RAYSWEEP_CONFIG": json.dumps(dict(config)),
            "PYTHONUNBUFFERED": "1",  # rows come as they are printed
        }
        rows: list[Mapping[str, Any]] = []
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            _started(words, self.folder, environment, errors) as process,
        ):
            assert process.stdout is not None
            while line := process.stdout.readline(_LINE):
                sys.stdout.write(line)  # to the run's log
                row = _row(line)
                if row is None or self.result:
                    continue
                if self.observed and all(name in row for name in self.observed):
                    yield row
                else:
                    rows = [row]
            code = process.wait()
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
            said = errors.read()
            sys.stderr.write(said)
        if code != 0:
            last = (said.strip().splitlines() or [""])[-1][:500]
            raise RuntimeError(f"{shlex.join(words)[:200]} ended with code {code}: {last}\n{said.strip()}".strip())
        if self.result:
            yield from self._from_file(Path(values["run_dir"]) / self.result)
        elif not self.observed:
            if not rows:
                raise RuntimeError(
                    f"{shlex.join(words)[:500]} must print its result as a line of JSON, but printed none"
                )
            yield rows[-1]

    def _from_file(self, path: Path) -> Iterator[Mapping[str, Any]]:
        try:
            text = path.read_text()
        except OSError as error:
            raise RuntimeError(f"the command must write its result to {path}, but did not: {error.strerror}") from error
        found: Any
        try:
            found = json.loads(text)
        except ValueError:
            found = [row for line in text.splitlines() if (row := _row(line)) is not None]
        found = [found] if isinstance(found, Mapping) else found
        if not isinstance(found, list) or not found or not all(isinstance(row, Mapping) for row in found):
            raise RuntimeError(f"{path} must hold a JSON object, or one line of JSON per row, but holds {text[:200]!r}")
        yield from found if self.observed else found[-1:]


def make_command(
    command: str | Sequence[str], result: str, folder: Path, observed: Sequence[str], where: str
) -> Command:
    """A command from what a sweep file says.

    Raises:
        SweepError: the command is empty, or its quotes are not closed.
    """
    try:
        words = tuple(shlex.split(command) if isinstance(command, str) else map(str, command))
    except ValueError as error:
        raise SweepError(f"{where}: command must be a command line, but got {command!r}: {error}") from error
    if not words:
        raise SweepError(f"{where}: command must name a program, but got {command!r}")
    return Command(words, result, str(folder.absolute()), tuple(observed))


def check_command(command: Command, axes: Sequence[str], where: str) -> None:
    """Refuse placeholders that are no axes, and axes that have no placeholder.

    Raises:
        SweepError: there is one.
    """
    known = (*axes, *_OWN)
    found: set[str] = set()
    for word in command.words:
        try:
            places = [name for _, name, _, _ in string.Formatter().parse(word) if name is not None]
        except ValueError as error:
            raise SweepError(f"{where}: command: {word!r}: {error}. Write {{{{ and }}}} for braces") from error
        for name in places:
            if name not in known:
                raise SweepError(
                    f"{where}: command: {{{name}}} must be an axis, run_dir or run_key. {nearest(name, known)}"
                )
            found.add(name)
    unused = [name for name in axes if name not in found and name not in command.observed]
    if unused and not any("RAYSWEEP_CONFIG" in word for word in command.words):
        raise SweepError(
            f"{where}: command: must have a place for every axis, but has none for {', '.join(unused)}: runs that "
            f"differ only there would be identical. Write e.g. --{unused[0]} {{{unused[0]}}}"
        )


@contextlib.contextmanager
def _started(
    words: Sequence[str], folder: str, environment: Mapping[str, str], errors: Any
) -> Iterator[subprocess.Popen[str]]:
    """The process, which leads its own group, so that all of it is killed at the end."""
    try:
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise RuntimeError(f"{words[0]} cannot be started in {folder}: {error.strerror}") from error
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _shown(value: Any) -> str:
    """A value as written on a command line: words as they are, lists and mappings as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, list | dict | bool) or value is None else repr(value)


def _row(line: str) -> Mapping[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None
