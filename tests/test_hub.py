"""Data sets of Hugging Face, in the form that the package `datasets` gives them."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raysweep import data, hub
from raysweep.errors import SweepError

Picture = pytest.importorskip("PIL.Image")


@dataclass
class Image:
    decode: bool = True


@dataclass
class ClassLabel:
    names: list[str]


class Rows:
    """A part of a data set, with what is used of one."""

    def __init__(self, rows: Sequence[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows, self.features = rows, features

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int | str) -> Any:
        if isinstance(at, str):
            return [row[at] for row in self.rows]
        assert not self.features["picture"].decode, "images must be decoded here, to this side"
        return self.rows[at]

    def cast_column(self, name: str, feature: Any) -> Rows:
        return Rows(self.rows, {**self.features, name: feature})


FEATURES = {"id": "int64", "picture": Image(), "animal": ClassLabel(["cat", "dog"]), "coarse": ClassLabel(["pet"])}


def png(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Picture.new("RGB", (6, 4), colour).save(out, "PNG")
    return out.getvalue()


def row(label: int, content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"id": 7, "picture": {"bytes": content, "path": path}, "animal": label, "coarse": 0}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data sets by name, as `load_dataset` returns them."""
    found: dict[str, Any] = {}

    def load_dataset(path: str, config: str | None) -> Any:
        if (path, config) not in found:
            raise FileNotFoundError(f"no {path}")
        return found[path, config]

    fake = SimpleNamespace(load_dataset=load_dataset, Image=Image, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
    for cached in (hub.listed, data.images, data.image_shape, data.fingerprint):
        cached.cache_clear()
    return found


def test_images_are_scaled_and_those_for_training_come_first(served: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(png((0, 0, 90)))
    test = [row(0, None, str(tmp_path / "c.png")), row(1, b"no image")]
    train = [row(1, png((50, 0, 0))), row(0, png((0, 70, 0)))]
    served["me/pets", "small"] = {"validation": Rows(test, FEATURES), "train": Rows(train, FEATURES)}
    found = data.images("hf:me/pets:small", 2)
    assert found.x.tolist() == [[50] * 4 + [0] * 8, [0] * 4 + [70] * 4 + [0] * 4, [0] * 8 + [90] * 4]
    assert (found.y.tolist(), found.train, found.classes) == ([1, 0, 0], 2, 2)
    assert found.skipped == ("validation/1",)
    assert data.image_shape("hf:me/pets:small", 2) == data.ImageShape(12, 2, 2, 2)


def test_the_fingerprint_follows_images_and_labels(served: dict[str, Any]) -> None:
    test = Rows([row(0, png((1, 1, 1)))], FEATURES)
    for name, label, colour in (("a", 0, 5), ("same", 0, 5), ("label", 1, 5), ("image", 0, 6)):
        served[name, None] = {"train": Rows([row(label, png((colour, 0, 0)))], FEATURES), "test": test}
    shas = {name: data.fingerprint(f"hf:{name}") for name, _ in served}
    assert shas["a"] == shas["same"]
    assert len(set(shas.values())) == 3


def test_what_cannot_be_used_is_refused(served: dict[str, Any]) -> None:
    one = Rows([row(0, png((1, 1, 1)))], FEATURES)
    served["lone", None] = {"train": one}
    plain = Rows(one.rows, {"picture": Image(), "animal": "int64"})
    served["plain", None] = {"train": plain, "test": plain}
    hidden = Rows([row(-1, png((1, 1, 1)))], FEATURES)
    served["hidden", None] = {"train": one, "test": hidden}
    for name, message in {
        "gone": r"cannot: no gone",
        "lone": r"a part train and one of test.*\['train'\]",
        "plain": r"a column of kind ClassLabel.*hf:plain",
        "hidden": r"every image must have a class, but 1 of",
    }.items():
        with pytest.raises(SweepError, match=message):
            data.images(f"hf:{name}", 4)
    served["good", None] = {"train": one, "test": one}
    with pytest.raises(SweepError, match=r"side: must be given.*data='hf:good'"):
        data.images("hf:good")


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SweepError, match=r"needs the package datasets.*pip install 'raysweep\[hf\]'"):
        data.fingerprint("hf:mnist")


def test_labels_and_images_that_are_missing_are_noticed(served: dict[str, Any]) -> None:
    good = [row(0, png((1, 1, 1))), row(1, png((2, 2, 2)))]
    gone = {**row(0, None), "picture": None}
    served["pictures", None] = {"train": Rows([*good, gone, row(1, None, "absent.png")], FEATURES)}
    served["labels", None] = {"train": Rows([*good, {**row(0, png((1, 1, 1))), "animal": None}], FEATURES)}
    served["empty", None] = {"train": Rows([], FEATURES)}
    served["one", None] = {"train": Rows(good[:1], FEATURES)}
    for found in served.values():
        found["test"] = Rows(good, FEATURES)
    assert data.images("hf:pictures", 2).skipped == ("train/2", "train/3")
    for name, message in {
        "labels": "every image must have a class, but 1 of",
        "empty": r"'hf:empty' has none in \['train'\]",
        "one": "class 1 of hf:one has none",
    }.items():
        with pytest.raises(SweepError, match=message):
            data.image_shape(f"hf:{name}", 2)
