"""What all commands share: how a group lists them in its help, and how the options of one are read."""

from __future__ import annotations

import copy
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

__all__ = ["App", "Command", "Commands"]


class Command(TyperCommand):
    """A command that refuses an option of one value which is given twice with different values: the last would win."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            parser = self.make_parser(ctx)
            for param in (single := self._single(ctx)).values():
                repeated = copy.copy(param)  # its values are collected, as those of an option that may be repeated
                repeated.multiple = True
                repeated.add_to_parser(parser, ctx)
            given, *_ = parser.parse_args(args=list(args))
            for name, param in single.items():
                if len({*given.get(name, ())}) > 1:
                    raise typer.BadParameter("it takes one value", ctx=ctx, param=param)
        return list(super().parse_args(ctx, args))

    def _single(self, ctx: Any) -> dict[str, Any]:
        """The options of one value, by name."""
        options = [one for one in self.get_params(ctx) if isinstance(one, TyperOption)]
        return {str(one.name): one for one in options if not (one.multiple or one.is_flag or one.count)}


class App(typer.Typer):
    """A group of commands, each a `Command`."""

    def command(self, *args: Any, **options: Any) -> Any:
        """As that of `typer.Typer`."""
        return super().command(*args, **{"cls": Command, **options})


class Commands(TyperGroup):
    """The commands of --help, each with its whole first sentence, which folds where the terminal is narrow."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(sys.maxsize)) for name, one in self.commands.items()])
