"""The `raysweep` command: plan, run, status, fit, report, audit, compact, doctor."""

from __future__ import annotations

import sys

import typer

from raysweep.cli import read, sweep
from raysweep.errors import RaysweepError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Declare a grid once; train it packed on Ray; get one ledger and scaling laws with honest intervals.",
)
sweep.add_to(app)
read.add_to(app)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some cells failed, 2 usage or input error, 130 interrupted."""
    try:
        app(standalone_mode=True)
    except RaysweepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on from here", file=sys.stderr)
        sys.exit(130)
