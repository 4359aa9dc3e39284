"""An option that names a file to write never replaces a file of anything else: an input, a table, a photograph."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml
from conftest import FUNCTION_SWEEP, Cli

from raysweep.cli.figure import draw, figure_files
from raysweep.errors import FitError

TABLE = "n,loss,arm\n" + "".join(f"{10**i},{5 * 10 ** (-i / 4)},{arm}\n" for i in range(1, 6) for arm in "ab")
FIT = ["fit", "t.csv", "--x", "n", "--y", "loss", "--bootstrap", "0"]
ARMS = ["compare", "t.csv", "--arm", "arm=a,b", "--x", "n", "--y", "loss"]


@pytest.fixture(autouse=True)
def table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ([*FIT, "--save"], "t.csv"),
        ([*FIT, "--save"], "rows.json"),
        ([*FIT, "--figure"], "photograph.png"),
        ([*FIT, "--save", "new.json", "--figure"], "photograph.pdf"),
        ([*ARMS, "--figure"], "photograph.svg"),
        (["difficulty", "digits", "--out"], "rows.json"),
        (["difficulty", "digits", "--out", "new.json", "--figure"], "photograph.png"),
    ],
)
def test_a_file_of_something_else_is_not_replaced(cli: Cli, arguments: list[str], file: str) -> None:
    path = Path(file)
    if file != "t.csv":
        path.write_bytes(b'[{"lambda_1": 1, "raysweep_fits": 1}]\n')
    before = path.read_bytes()
    code, out, err = cli(*arguments, file)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f"{file}" in err
    assert arguments[-1] in err
    assert "remove it first" in err
    assert path.read_bytes() == before
    assert not Path("new.json").exists()


def test_what_the_same_option_wrote_before_is_replaced_and_so_is_an_empty_file(cli: Cli) -> None:
    Path("fit.json").touch()
    for law in ("power", "exponential"):
        assert cli(*FIT, "--law", law, "--save", "fit.json")[0] == 0
        assert f'"law": "{law}"' in Path("fit.json").read_text()
    for ending in ("png", "pdf", "svg"):
        for _ in range(2):
            (file,) = figure_files("fit", f"fit.{ending}")
            draw(plt.figure(figsize=(1, 1)), file)
    Path("fit-3.png").write_text("mine")
    assert [file.name for file in figure_files("fit", "fit.png", 2)] == ["fit.png", "fit-2.png"]
    with pytest.raises(FitError, match=r"got 'fit-3\.png', which holds something else"):
        figure_files("fit", "fit.png", 3)
    code, _, err = cli(*FIT, "--save", "both.png", "--figure", "both.png")
    assert code == 2
    assert "--save and --figure must name different files" in err


@pytest.mark.parametrize(("name", "content"), [("report.html", "<p>mine</p>"), ("env.json", '{"PATH": "/bin"}')])
def test_a_folder_of_something_else_does_not_become_a_store_that_replaces_its_files(
    cli: Cli, name: str, content: str
) -> None:
    Path("toy.yaml").write_text(yaml.safe_dump(FUNCTION_SWEEP))
    Path("mine").mkdir()
    (Path("mine") / name).write_text(content)
    code, _, err = cli("run", "toy.yaml", "--store", "mine", "--executor", "inline")
    assert code == 2
    assert f"must be a new folder, or a store, but is neither and has a file {name}" in err
    assert [(one.name, one.read_text()) for one in Path("mine").iterdir()] == [(name, content)]
