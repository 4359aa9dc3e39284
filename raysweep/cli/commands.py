"""How a group of commands lists them in its help."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperGroup

__all__ = ["Commands"]


class Commands(TyperGroup):
    """The commands of --help, each with its whole first sentence, which folds where the terminal is narrow."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(sys.maxsize)) for name, one in self.commands.items()])
