"""The `raysweep` command and its groups of commands, one file each.

Each command's function does its own imports, so that help, completion and usage errors import next to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import sys
from typing import Annotated, Any

import typer

from raysweep import __version__
from raysweep.cli import (
    allocate,
    compare,
    difficulty,
    export,
    forget,
    imports,
    isoflop,
    laws,
    oracle,
    passk,
    peak,
    predict,
    read,
    suggest,
    sweep,
)
from raysweep.cli.commands import App, Commands
from raysweep.cli.show import say
from raysweep.errors import RaysweepError

__all__ = ["app", "main"]


app = App(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Declare a grid once; train it packed on Ray; get one ledger and scaling laws with honest intervals.",
)
_INTERRUPTED = 130
_BROADEST = 80  # columns of help, however wide the terminal
_UsageError: Any = typer.BadParameter.__base__  # typer brings its own click and does not export this
sweep.add_to(app)
laws.add_to(app)
allocate.add_to(app)
predict.add_to(app)
isoflop.add_to(app)
passk.add_to(app)
compare.add_to(app)
difficulty.add_to(app)
peak.add_to(app)
suggest.add_to(app)
read.add_to(app)
oracle.add_to(app)
export.add_to(app)
imports.add_to(app)
forget.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"raysweep {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def _help_width() -> int:
    """Columns of help. (The default of click is never less than 50, however narrow the terminal.)"""
    return max(20, min(shutil.get_terminal_size().columns, _BROADEST) - 2)


def _wrong(error: Any) -> str:
    """What is wrong with a command line, in a sentence; of an option's value, also that value."""
    text = error.format_message().rstrip(".").replace("Input should be", "it must be", 1)
    names = [*getattr(error.param, "opts", ())] if isinstance(error, typer.BadParameter) else []
    words = [word for token in sys.argv[1:] for word in (token.split("=", 1) if token.startswith("--") else [token])]
    given = [repr(value) for name, value in itertools.pairwise(words) if name in names]
    return f"{text}, but got {' and '.join(given)}." if given else f"{text}."


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some cells failed, 2 usage or input error, 130 interrupted."""
    try:
        if "RAYSWEEP_PATIENCE" in os.environ:  # validated before anything is done, not when the storage first fails
            from raysweep.store.patience import patience

            patience()
        code = app(prog_name="raysweep", standalone_mode=False, terminal_width=_help_width())
        if code == _INTERRUPTED:  # what typer makes of Ctrl-C
            say("interrupted; run the same command again to continue", stream=sys.stderr)
        sys.stdout.flush()
        sys.exit(code)
    except RaysweepError as error:
        say(f"error: {' '.join(str(error).split())}", stream=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        with contextlib.suppress(OSError):
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        os._exit(2)  # Python would try once more to write what is left
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "raysweep"
        say(f"error: {_wrong(error)} See `{command} --help`.", stream=sys.stderr)
        sys.exit(2)
