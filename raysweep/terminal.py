"""Lines for people: folded between words to a terminal's width and never cut; counts with their nouns; options by the
names that a command line has for them.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import sys
import textwrap
from typing import IO

__all__ = ["as_options", "counted", "folded", "terminal_width"]

_BROAD = 110  # columns of text, however wide the terminal
_ARGUMENT = re.compile(r"`([a-z]\w*)=([^`]*)`")


def as_options(text: str) -> str:
    """A sentence about a fit as somebody at a command line reads it.

    What such a sentence asks for it names as an argument in Python, between backticks. Here that becomes an option.

    Example:
        >>> as_options("Fit each with `by='my arm'`, or name the column of runs with `run=`.")
        "Fit each with --by 'my arm', or name the column of runs with --run."
    """
    return _ARGUMENT.sub(lambda found: f"--{found[1].replace('_', '-')}{_value(found[2])}", text)


def _value(text: str) -> str:
    if not text:
        return ""
    try:
        value = str(ast.literal_eval(text))
    except (SyntaxError, ValueError):  # not a value but a description of one
        return f" {text}"
    return f' "{value}"' if "'" in value and not re.search(r'["$\\!]', value) else f" {shlex.quote(value)}"


def terminal_width(stream: IO[str] | None = None) -> int | None:
    """Columns available for a line: a terminal's width; unlimited elsewhere, where a program may read the lines."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    if "COLUMNS" not in os.environ:  # the stream's own terminal, also while another takes the place of stdout
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):
            pass
    return shutil.get_terminal_size().columns


def counted(number: int, noun: str) -> str:
    """`1 cell`, `2,240 cells`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def folded(line: str, columns: int | None, break_words: bool = False) -> list[str]:
    """A line as lines of at most `columns` (at most 110) characters; what follows the first is indented further.

    Args:
        columns: None for no limit.
        break_words: Break a word that is longer than a line, which otherwise stays whole, as a path should.
    """
    most = sys.maxsize if columns is None else min(columns, _BROAD)
    if len(line) <= most:
        return [line]
    indent = " " * min(len(line) - len(line.lstrip()) + 2, most // 2)
    return textwrap.wrap(
        line, most, subsequent_indent=indent, break_long_words=break_words, break_on_hyphens=False
    ) or [""]
