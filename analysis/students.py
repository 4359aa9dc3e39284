"""Students of a noisy teacher: small transformers that learn word problems, all as lanes of one stack.

    python analysis/students.py [--device cuda] [--seeds 8] [--steps 8000] [--out results/lid_gsm8k/students.npz]

The teacher is an exact solver whose answers scatter with sigma / sqrt(tau), where each problem has its own tau ~
Gamma(beta / 2). A student sees one answer to each of its problems, and then gives its greedy answer, digit by digit, to
problems that no student has seen. Saved: error [students, problems] of those answers, and beta, seed, n_train
[students]. Needs only torch.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Whole = npt.NDArray[np.int64]

SIZES = [10, 20, 43, 88, 181, 371, 759, 1555, 3182, 6309]  # log-spaced over the paper's range
BETAS = (2.5, 4.5)
SIGMA = 0.25  # scale of the teacher's errors; an answer within half a unit rounds to the right one
TEMPLATES = (  # all ask for a + b c
    "{n} has {a} {t} and buys {b} bags of {c} {t} . how many {t} now ?",
    "{b} boxes hold {c} {t} each . {n} adds {a} {t} . how many in all ?",
    "{n} earns {b} coins a day for {c} days and had {a} coins . how many coins ?",
    "a shelf has {b} rows of {c} {t} . {a} {t} lie on the floor . count all {t} .",
    "{n} gives {b} friends {c} {t} each and keeps {a} . how many {t} were there ?",
    "{n} and {m} have {a} {t} ; then each of {b} shops sends {c} . how many {t} ?",
)
NAMES = ["ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hana"]
THINGS = ["apples", "books", "cards", "eggs", "nuts", "pens", "stamps", "shells"]
DIGITS = 3  # digits of an answer
WIDTH, BLOCKS, HEADS, BATCH = 64, 2, 4, 64
VARIANTS = 3  # variants of a text, with other names and things
HELD_OUT = 1 / 8  # share of the triples a, b, c whose problems no student sees
LR, DECAY, WARMUP = 2e-3, 0.1, 200


def problems() -> tuple[Whole, Whole, Whole]:
    """Tokens of every problem, padded in front with 0, [problems, length]; exact answers; the triple of each."""
    rng = np.random.default_rng(0)
    texts, answers, triples = [], [], []
    for i, (a, b, c) in enumerate(itertools.product(range(1, 21), range(2, 7), range(2, 7))):
        for text in TEMPLATES * VARIANTS:
            n, m = rng.choice(NAMES, 2, replace=False)
            words = text.format(n=n, m=m, t=rng.choice(THINGS), a=f"{a:02d}", b=b, c=c).split()
            texts.append([token for word in words for token in (word if word.isdigit() else [word])])
            answers.append(a + b * c)
            triples.append(i)
    known = {token: i for i, token in enumerate(sorted({token for text in texts for token in text}), 1)}
    length = max(map(len, texts))
    rows = [[0] * (length - len(text)) + [known[token] for token in text] for text in texts]
    return np.array(rows), np.array(answers), np.array(triples)


def digits_of(answers: Whole) -> Whole:
    """[..., DIGITS] digits, least first: a later one follows from earlier ones, as in adding by hand."""
    return np.stack([answers // 10**i % 10 for i in range(DIGITS)], axis=-1)


class Students:
    """Decoder-only transformers; every weight is [lanes, ...]."""

    def __init__(self, lanes: int, vocabulary: int, length: int, device: str) -> None:
        drawing = torch.Generator(device).manual_seed(1)

        def weight(*shape: int, scale: float) -> Tensor:
            return (torch.randn(lanes, *shape, generator=drawing, device=device) * scale).requires_grad_()

        self.embed = weight(vocabulary, WIDTH, scale=0.1)
        self.place = weight(length, WIDTH, scale=0.1)
        self.head = weight(WIDTH, 10, scale=WIDTH**-0.5)
        shapes = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
        self.blocks = [[weight(*shape, scale=shape[0] ** -0.5) for shape in shapes] for _ in range(BLOCKS)]

    @property
    def weights(self) -> list[Tensor]:
        return [self.embed, self.place, self.head, *itertools.chain(*self.blocks)]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of the digit that follows, [lanes, n, length, 10], of tokens [lanes, n, length]."""
        lanes, n, length = tokens.shape
        lane = torch.arange(lanes, device=tokens.device)[:, None]
        x = self.embed[lane, tokens.flatten(1)].view(lanes, n, length, WIDTH) + self.place[:, None, :length]
        x = x.view(lanes, n * length, WIDTH)
        for qkv, out, up, down in self.blocks:
            parts = (F.layer_norm(x, [WIDTH]) @ qkv).view(lanes * n, length, 3, HEADS, WIDTH // HEADS)
            mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4), is_causal=True)
            x = x + mixed.transpose(1, 2).reshape(lanes, n * length, WIDTH) @ out
            x = x + F.gelu(F.layer_norm(x, [WIDTH]) @ up) @ down
        return (F.layer_norm(x, [WIDTH]) @ self.head).view(lanes, n, length, 10)


def trained(device: str, seeds: int, steps: int) -> dict[str, npt.NDArray[Any]]:
    """What is saved, after training every size, beta and seed."""
    texts, answers, triples = problems()
    held = np.random.default_rng(1).permutation(triples.max() + 1)[: int(HELD_OUT * triples.max())]
    test, pool = (np.flatnonzero(np.isin(triples, held, invert=invert)) for invert in (False, True))
    shift = int(texts.max()) + 1  # the token of an answer's digit 0
    sets = list(itertools.product(BETAS, range(seeds)))
    inputs, targets = [], []
    for beta, seed in sets:  # sizes of a seed are nested
        rng = np.random.default_rng([2, int(10 * beta), seed])
        rows = rng.permutation(pool)[: max(SIZES)]
        said = answers[rows] + SIGMA * rng.standard_normal(len(rows)) / np.sqrt(rng.gamma(beta / 2, size=len(rows)))
        digits = digits_of(np.clip(np.rint(said), 0, 10**DIGITS - 1).astype(np.int64))
        inputs.append(np.concatenate([texts[rows], digits[:, :-1] + shift], axis=1))
        targets.append(digits)
    x, y = (torch.tensor(np.stack(a), device=device) for a in (inputs, targets))
    of_set = torch.arange(len(sets), device=device).repeat_interleave(len(SIZES))[:, None]
    sizes = torch.tensor(SIZES * len(sets), device=device)[:, None]
    students = Students(len(sizes), shift + 10, x.shape[-1], device)
    optimiser = torch.optim.AdamW(students.weights, lr=LR, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    drawing = torch.Generator(device).manual_seed(3)
    for _ in range(steps):
        at = (torch.rand(len(sizes), BATCH, generator=drawing, device=device) * sizes).long()
        logits = students(x[of_set, at])[:, :, -DIGITS:]
        loss = F.cross_entropy(logits.reshape(-1, 10), y[of_set, at].reshape(-1)) * len(sizes)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        said = torch.tensor(texts[test], device=device).expand(len(sizes), -1, -1)
        for _ in range(DIGITS):
            digit = torch.cat([students(part)[:, :, -1].argmax(-1) for part in said.split(128, dim=1)], dim=1)
            said = torch.cat([said, digit[..., None] + shift], dim=-1)
        digits = (said[..., -DIGITS:] - shift).cpu().numpy()
    return {
        "error": (digits @ 10 ** np.arange(DIGITS) - answers[test]).astype(np.int16),
        "answer": answers[test].astype(np.int16),
        "beta": np.repeat([beta for beta, _ in sets], len(SIZES)),
        "seed": np.repeat([seed for _, seed in sets], len(SIZES)),
        "n_train": np.tile(SIZES, len(sets)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("results/lid_gsm8k/students.npz"))
    given = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    begin = time.perf_counter()
    found = trained(given.device, given.seeds, given.steps)
    right = found["error"] == 0
    for n in SIZES:
        print(f"N = {n:5}: right answers {right[found['n_train'] == n].mean():.3f}")
    print(f"{len(right)} students, {given.steps:,} steps: {time.perf_counter() - begin:.0f} s on {given.device}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out, **found)


if __name__ == "__main__":
    main()
