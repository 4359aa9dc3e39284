"""Spellings: each is a number or word that everybody reads alike, or refused with both readings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import PriceError, SweepError
from raysweep.prices import read_prices
from raysweep.sweep import load_sweep
from raysweep.yamlfile import dump_yaml, parse_yaml, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x20", 32), ("-0x2_0", -32), ("+0XfF", 255), ("0o17", 15), ("-0O1_7", -15), ("0b101", 5), ("0B1_1", 3),
        ("1_000", 1000), ("+7", 7), ("-0", 0), ("1e3", 1000.0), (".5", 0.5), ("-.5", -0.5), ("5.", 5.0),
        ("1E-3", 0.001), ("1_000.5e1", 10005.0), ("1_0e3", 10000.0), ("016.5", 16.5), ("0e5", 0.0), ("5e-324", 5e-324),
    ],
)  # fmt: skip
def test_what_a_person_reads_as_a_number_is_one(text: str, value: float) -> None:
    found = parse_yaml(f"a: [{text}, '{text}', {{b: {text}}}]", "here")["a"]
    assert found == [value, text, {"b": value}]
    assert type(found[0]) is type(value)
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["y", "n", "Y", "yEs", "nope", "1.2.3", "v1..v2", "0..3", "a=b", "<<<", "2026-11", "0x", "0b2", "0o8", "1e", "e5",
     "1e3_0", "01:30", "1:90", "inf", "nan", "_1", "٣", "~x", "nullx", "-", "0:4"],
)  # fmt: skip
def test_what_nobody_reads_otherwise_is_a_word(text: str) -> None:
    assert parse_yaml(f"a: {text}" if text != "-" else "a: '-'", "here") == {"a": text}


@pytest.mark.parametrize("text", ["no", "No", "NO", "yes", "Yes", "YES", "on", "On", "ON", "off", "Off", "OFF"])
@pytest.mark.parametrize("place", ["{}", "a: {}", "a: [x, {}]", "{}: 1", "a: {{b: {{{}: 1}}}}"])
def test_words_that_are_truth_values_to_some_are_refused_as_values_and_keys(text: str, place: str) -> None:
    truth = str(yaml.safe_load(text)).lower()
    with pytest.raises(SweepError) as caught:
        parse_yaml(place.format(text), "here")
    message = str(caught.value)
    assert f"{text} is {truth} in YAML 1.1 and the word '{text}' in YAML 1.2" in message
    assert f"Write {truth} or '{text}'" in message
    assert f"line 1, column {place.format('@').find('@') + 1}" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("016", ["14 (octal) in YAML 1.1 and 16 in YAML 1.2", "Write 16, 0o16 or '016'"]),
        ("-016", ["-14 (octal)", "Write -16, -0o16 or '-016'"]),
        ("018", ["the word '018' in YAML 1.1 and 18 in YAML 1.2", "Write 18 or '018'"]),
        ("007", ["must not start with a 0", "Write 7, 0o7 or '007'"]),
        ("0_16", ["14 (octal) in YAML 1.1 and the word '0_16'", "Write 14 or '0_16'"]),
        ("1:30", ["90 (base 60) in YAML 1.1 and the word '1:30' in YAML 1.2", "Write 90 or '1:30'"]),
        ("190:20:30", ["685230 (base 60)"]),
        ("1:30.5", ["90.5 (base 60)"]),
        ("1_", ["1 in YAML 1.1 and the word '1_'"]),
        ("0x_", ["no valid number in YAML 1.1"]),
        ("2026-11-28", ["a date or time in YAML 1.1 and the word", "Write '2026-11-28'"]),
        ("2026-11-28 10:20:30", ["a date or time"]),
        ("=", ["a default value in YAML 1.1"]),
        ("<<", ["a merge of mappings in YAML 1.1"]),
        ("1e400", ["1.8e308", "1e400"]),
        ("-1e400", ["-1e400"]),
        ("1e-400", ["4.9e-324", "1e-400"]),
        ("9223372036854775808", ["64 bits", "9223372036854775808"]),
        ("0xffffffffffffffff", ["64 bits"]),
    ],
)
def test_what_is_unclear_is_refused_with_its_place_and_both_readings(text: str, words: list[str]) -> None:
    with pytest.raises(SweepError) as caught:
        parse_yaml(f"grid:\n  concat:\n  - {{lr: 1}}\n  - {{lr: {text}}}\n", "s.yaml")
    for word in ["s.yaml: grid.concat[1].lr: line 4, column 10: ", *words]:
        assert word in str(caught.value)
    with pytest.raises(SweepError, match="here: line 1, column 2: "):
        parse_yaml(f"{{{text}: 1}}", "here")
    assert parse_yaml(f"'{text}'", "here") == text


@pytest.mark.parametrize("text", ["<<: {a: 1}", "a: {<<: {a: 1}}", "=: 1", "!!str no", "! no", "!x {a: 1}", "a: &b 1"])
def test_no_merge_tag_or_anchor_changes_what_is_read(text: str) -> None:
    with pytest.raises(SweepError, match=r"here: .*line 1, column"):
        parse_yaml(text, "here")


@pytest.mark.parametrize("text", ["{1: a, 1.0: b}", "{1: a, 0x1: b}", "{a: 1, 'a': 2}", "{true: 1, True: 2}"])
def test_equal_keys_are_refused_however_they_are_spelt(text: str) -> None:
    with pytest.raises(SweepError, match="keys must be distinct"):
        parse_yaml(text, "here")


@pytest.mark.parametrize("text", ["{[1]: 2}", "? {a: 1}\n: 2"])
def test_a_key_that_is_no_word_is_refused(text: str) -> None:
    with pytest.raises(SweepError, match="keys are words"):
        parse_yaml(text, "here")


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
    | st.sampled_from(["no", "016", "1e3", "0o17", "0x20", "1:30", "=", "<<", "2026-11-28", "~", "", "1_0", "1e400"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(plain)
def test_what_is_written_is_read_as_the_same(value: object) -> None:
    again = parse_yaml(dump_yaml(value), "here")
    assert again == value
    assert repr(again) == repr(value)


@given(st.from_regex(r"[-+]?[0-9_.xobe:ABF]{1,8}", fullmatch=True))
def test_a_number_is_never_read_as_another_than_readers_of_yaml_1_1_read(text: str) -> None:
    """Where YAML 1.1 sees a number, we see the same one or refuse."""
    try:
        old = yaml.safe_load(text)
        new = parse_yaml(text, "here")
    except (SweepError, yaml.YAMLError, ValueError):
        return
    if isinstance(old, int | float):
        assert new == old


def test_infinity_and_nan_are_numbers_of_yaml() -> None:
    assert parse_yaml("[.inf, -.Inf]", "here") == [math.inf, -math.inf]
    assert math.isnan(parse_yaml(".NaN", "here"))


def test_files_worlds_price_tables_and_overrides_follow_the_same_rules(tmp_path: Path) -> None:
    sweep, world, prices = tmp_path / "s.yaml", tmp_path / "w.yaml", tmp_path / "p.yaml"
    base = "name: s\nexperiment: classifier\nworld: w.yaml\n"
    world.write_text("kind: gaussian\nclasses: 0b11\n")
    sweep.write_text(base + "grid: {width: 0x20}\n")
    assert load_sweep(sweep).runs.values["width"] == (32,)
    assert load_sweep(sweep, ["width=0o40"]).runs.values["width"] == (32,)
    with pytest.raises(SweepError, match=r"--set width=016: line 1, column 7: .*14 \(octal\)"):
        load_sweep(sweep, ["width=016"])
    with pytest.raises(SweepError, match=r"--set labels=hard,no: line 1, column 13: no is false|labels=hard,no"):
        load_sweep(sweep, ["labels=hard,no"])
    for value, rule in ((".inf", "number.*inf"), (".nan", "number.*nan"), ("1e400", "1.8e308"), ("'nan'", "number")):
        sweep.write_text(base + f"grid: {{lr: {value}}}\n")
        with pytest.raises(SweepError, match=rule):
            load_sweep(sweep)
    sweep.write_text(base + "grid: {width: 32}\n")
    world.write_text("kind: gaussian\ndim: 012\n")
    with pytest.raises(SweepError, match=r"w\.yaml: dim: line 2, column 6: .*Write 12"):
        load_sweep(sweep)
    row = "{provider: a, name: no, gpus: 1, cpus: 1, memory_gib: 1, on_demand: 1, as_of: 2026-01, source: x}"
    prices.write_text(f"machines: [{row}]\n")
    with pytest.raises(PriceError, match=r"p\.yaml: machines\[0\]\.name: line 1, column \d+: .*false"):
        read_prices(prices)


def test_a_word_in_quotes_stays_that_word_in_a_stored_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "words_of_yaml.py").write_text("def train(config):\n    return {'loss': 1.0}\n")
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nexperiment: words_of_yaml:train\ngrid: {a: ['1e3', '0o17', 'no', '016']}\n")
    sweep = load_sweep(path)
    (tmp_path / "again.yaml").write_text(sweep.text)
    again = load_sweep(tmp_path / "again.yaml")
    assert again.runs.keys.tolist() == sweep.runs.keys.tolist()
    assert again.runs.values["a"] == ("1e3", "0o17", "no", "016")
