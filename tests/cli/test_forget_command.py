"""raysweep forget: what is shown, what needs --yes, what a fit, status and the next run then see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import FUNCTION_SWEEP, Cli


@pytest.fixture
def cli(cli: Cli) -> Cli:
    """Runs `raysweep ARGUMENTS` beside a finished store `s` of 18 cells: (exit code, output, errors)."""
    Path("toy.yaml").write_text(yaml.safe_dump({**FUNCTION_SWEEP, "fit": []}))  # figures would take seconds
    assert cli("run", "toy.yaml", "--store", "s", "--executor", "inline")[0] == 0
    return cli


def pending(cli: Cli) -> int:
    found: int = json.loads(cli("status", "s", "--json")[1])["pending"]
    return found


def test_rows_are_forgotten_filled_again_and_remembered(cli: Cli) -> None:
    where = ("--where", "size = 100 AND epoch = 3 AND seed = 1")
    code, out, _ = cli("forget", "s", *where)
    assert code == 0
    assert "would be forgotten: 1 of 18 cells (1 ok) of 1 run" in out
    assert "seed=1, size=100, epoch=3" in out
    assert pending(cli) == 0
    code, out, _ = cli("forget", "s", *where, "--reason", "the disk was full", "--json")
    assert code == 0
    assert json.loads(out)["forgotten"]["reason"] == "the disk was full"
    assert pending(cli) == 1
    assert "1 cell forgotten" in cli("status", "s")[1]
    points = ("fit", "s", "--x", "size", "--y", "loss", "--by", "epoch", "--json")
    assert [group["n_points"] for group in json.loads(cli(*points)[1])] == [6, 6, 5]
    assert cli("run", "toy.yaml", "--store", "s", "--executor", "inline")[0] == 0
    assert pending(cli) == 0
    code, out, _ = cli("forget", "s", "--undo")
    assert code == 0
    assert "the disk was full" in out
    assert "nothing was forgotten" in cli("forget", "s")[1]


def test_many_rows_need_yes(cli: Cli) -> None:
    code, _, err = cli("forget", "s", "--where", "seed = 1", "--reason", "all of them")
    assert code == 2
    assert "only with --yes, but 'seed = 1' matches 9 of 18" in " ".join(err.split())
    assert pending(cli) == 0
    assert not list(Path("s/ledger").glob("forgotten*"))
    assert cli("forget", "s", "--where", "seed = 1", "--reason", "all of them", "--yes")[0] == 0
    assert pending(cli) == 9


REFUSED = [
    (["--where", "seed = 7"], "--where must match rows, but 'seed = 7' matches none of 18"),
    (["--where", "seeds = 1"], "There is no column 'seeds'. Did you mean 'seed'"),
    (["--reason", "x"], "--reason must come with --where"),
    (["--where", "seed = 1", "--reason", " "], "--reason must say why, but is empty"),
    (["--undo", "--where", "seed = 1"], "--undo goes with no option but --id"),
    (["--undo"], "must have been forgotten, but got (the latest). Forgotten now: none"),
]


def test_what_cannot_be_forgotten_is_refused(cli: Cli) -> None:
    for options, said in REFUSED:
        code, _, err = cli("forget", "s", *options)
        assert code == 2
        assert said in " ".join(err.split())
    assert not list(Path("s/ledger").glob("forgotten*"))
