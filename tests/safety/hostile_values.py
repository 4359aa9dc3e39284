"""Values, bytes and words that no file should hold; each may be all there is in its place."""

from __future__ import annotations

import atexit
import math
import random
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

_MEMORY = Path("/dev/shm")  # no disk waits for a hundred thousand files
SCRATCH = Path(tempfile.mkdtemp(prefix="raysweep-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    16,
    64,
    2**31,
    2**53 + 1,
    2**63,
    10**30,
    -(10**30),
    0.5,
    1e-3,
    -0.0,
    1e300,
    -1e300,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "x",
    "1e-3",
    "0x10",
    "1:30",
    "hard",
    "soft",
    "cosine",
    "wsd",
    "=",
    "~",
    "a\nb",
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "\0",
    "../x",
    "x" * 3000,
    "é" * 300,
    "$\\frac{$",
    "<script>",
    [],
    {},
    [[]],
    {"": ""},
]
AXES = [
    "n_train",
    "width",
    "depth",
    "labels",
    "lr",
    "seed",
    "data_seed",
    "steps",
    "k",
    "schedule",
    "model",
    "batch",
    "temperature",
    "precision",
    "pool",
    "members",
    "zip",
    "concat",
    "when",
    "widht",
    "",
    "if",
    "then",
]

odd = st.sampled_from(ODD) | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
Make = Callable[[random.Random], Any]  # cases of one seed: a hundred thousand cost seconds, if they cannot be shrunk


def changed(*originals: bytes) -> Make:
    """One of the originals with some bytes replaced, inserted, deleted, repeated or cut off."""
    extremes = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\0\0\0\0"]

    def make(rng: random.Random) -> bytes:
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(data) + 1)
            how = rng.randrange(10)
            if how < 4:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif how == 4:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            elif how == 5:
                del data[at : at + rng.randint(1, 32)]
            elif how == 6:
                data[at:at] = bytes(data[at : at + rng.randint(1, 32)]) * rng.randint(1, 20)
            elif how < 9:
                data[at : at + 4] = rng.choice(extremes)
            elif rng.random() < 0.3:
                del data[at:]
        return bytes(data)

    return make


_WORDS = (
    "{ } [ ] : , &a *a !!int !!python/object:os.system !!binary !!set !!timestamp <<: ? | > %TAG --- ... # ' "
    "1e999 .nan 0o17 1:30 2001-02-30 true null 0 -1 1e9 1e12 10000000000000000000 0.5 x lr seed range geom log2 linear "
    'zip concat when if then " \0 \x1b \ufeff'
)
_TOKENS = [*_WORDS.split(" "), *["\t", "\n", "  ", "- ", "0x" + "f" * 50, "[" * 60, "{a: " * 60]]


def in_text(*originals: str) -> Make:
    """Tokens of YAML where they do not belong."""

    def make(rng: random.Random) -> str:
        text = rng.choice(originals)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            words = list(re.finditer(r"[\w.+-]+|\S", text))
            found = rng.choice(words) if words else None
            at = (rng.randrange(len(text) + 1),) * 2 if found is None or rng.random() < 0.3 else found.span()
            text = text[: at[0]] + rng.choice(_TOKENS) + text[at[1] :]
        return text

    return make
