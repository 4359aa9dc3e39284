"""Errors of a command line name the option at fault."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from raysweep.errors import FitError

__all__ = ["naming"]


@contextmanager
def naming(
    command: str, given: Collection[str] | None = None, **columns: str | Collection[str] | None
) -> Iterator[None]:
    """What is raised within, about a request or about a column, names the option that gave it.

    Args:
        command: The command.
        given: The options that the command line gives; a request that is at fault elsewhere is not the command line's.
            None where the command line gives all of it.
        columns: The columns that options name, by the name of the option.

    Raises:
        FitError: In place of the `RequestError` or `ColumnError`.
    """
    from raysweep.laws.refusal import ColumnError, RequestError

    try:
        yield
    except RequestError as error:
        if given is not None and error.key not in given:
            raise
        raise FitError(f"{command}: {_option(error.key)}: {error.rule}") from error
    except ColumnError as error:
        for name, value in columns.items():
            if error.column in ((value,) if isinstance(value, str) else value or ()):
                raise FitError(f"{command}: {_option(name)}: {error}") from error
        raise


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
