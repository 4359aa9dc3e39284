"""Stores by name: credentials are refused and never shown; `..` and links lead nowhere; pipes and devices end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FUNCTION_SWEEP
from typer.testing import CliRunner

from raysweep.cli import app
from raysweep.errors import LedgerError, RaysweepError, plain, redact, tail
from raysweep.executors import make_executor
from raysweep.executors.quiet import quiet
from raysweep.ledger.log import Ledger
from raysweep.run import run
from raysweep.store import Store
from raysweep.store.leases import LEASE, Claims
from raysweep.sweep import Sweep
from raysweep.worlds import ray_log

SECRET = "hUsH/h+ush0123456789"
WITH_SECRETS = [
    f"s3://AKIAXYZ:{SECRET}@bucket/sweep",
    f"s3://bucket/sweep?access_key=AKIAXYZ&secret_key={SECRET}",
    f"s3://bucket/sweep?region=eu-west-1&session_token={SECRET}",
    f"s3://bucket/sweep?endpoint_override=http%3A%2F%2Fuser%3A{SECRET}%40host",
    f"https://user:{SECRET}@host/sweep",
    f"https://{SECRET.replace('/', '')}@host/sweep",
    f"simplecache::s3://AKIAXYZ:{SECRET}@bucket/sweep",
    f"az://container/x?sv=2024&sig={SECRET}",
    f"hdfs://me:{SECRET}@host:8020/x",
]


@pytest.mark.parametrize("uri", WITH_SECRETS)
def test_a_uri_with_credentials_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(LedgerError, match="must not hold credentials") as caught:
        Store(uri)
    assert SECRET[:6] not in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    for command in (["status", uri], ["report", uri], ["fit", uri], ["compact", uri], ["doctor", "--store", uri]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, RaysweepError)
        assert SECRET[:6] not in result.output + str(result.exception)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/sweep?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9000",
        "gs://anonymous@bucket/x",
        "hdfs://host:8020/user/me@corp",
        "abfs://container@account.dfs.core.windows.net/x",
        "memory://x",
        "results/demo",
    ],
)
def test_other_uris_are_taken(uri: str) -> None:
    assert Store(uri).uri == uri


def test_control_characters_in_a_uri_are_refused() -> None:
    for uri in ("a\nb", "\x1b[31m", "a\0b"):
        with pytest.raises(LedgerError, match="printable"):
            Store(uri)


def test_errors_rows_and_logs_lose_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "topsecretvalue")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    text = f"cannot open s3://k:{SECRET}@b/x?session_token=abc: {SECRET} topsecretvalue"
    for shown in (redact(text), tail(text), str(LedgerError(text))):
        assert "***" in shown
        assert SECRET not in shown
        assert "abc" not in shown
        assert "topsecretvalue" not in shown


def test_what_an_error_says_is_short_and_printable() -> None:
    told = str(LedgerError("start " + "x" * 10_000_000 + "\x1b[2J\u202e end"))
    assert len(told) < 5000
    assert told.startswith("start ")
    assert told.endswith(r"\x1b[2J\u202e end")
    assert plain("a\nb\tc é") == "a\nb\tc é"


def test_the_environment_is_stored_nowhere(
    tmp_path: Path, make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "do-not-keep-me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    run(make_sweep(FUNCTION_SWEEP), Store(str(tmp_path)), make_executor("inline"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"do-not-keep-me" not in path.read_bytes()
            assert SECRET.encode() not in path.read_bytes()


# --- paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a//b", "./x", "a\0b", "ledger/.."])
def test_a_name_that_climbs_out_is_refused(name: str, any_store: Store) -> None:
    for action in (any_store.read, any_store.delete, any_store.list, lambda n: any_store.write(n, b"")):
        with pytest.raises(LedgerError, match="plain path"):
            action(name)


@pytest.fixture
def kept(tmp_path: Path, make_sweep: Callable[..., Sweep]) -> Store:
    store = Store(str(tmp_path / "store"))
    run(make_sweep(FUNCTION_SWEEP), store, make_executor("inline"))
    return store


@pytest.mark.timeout(60)
def test_links_out_of_a_store_are_not_followed(kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_PATIENCE", "1000")  # none of this passes by waiting
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not yours")
    ledger = Path(kept.path("ledger"))
    (ledger / f"part-{'0' * 16}-1.parquet").symlink_to("/etc/passwd")
    (ledger / f"part-{'0' * 16}-2.parquet").symlink_to(outside / "none")
    (ledger / f"part-{'0' * 16}-3.parquet").symlink_to(f"part-{'0' * 16}-3.parquet")  # a loop
    os.mkfifo(ledger / f"part-{'0' * 16}-4.parquet")
    (ledger / f"part-{'0' * 16}-5.parquet").symlink_to(f"part-{'0' * 16}-4.parquet")
    (ledger / f"part-{'0' * 16}-6.parquet").symlink_to("/dev/zero")
    (ledger / f"part-{'0' * 16}-7.parquet").mkdir()
    scan = Ledger(kept).scan()
    assert len(scan.table) == 18
    assert all("lie in the store" in reason or "cannot be read" in reason for _, reason in scan.skipped)
    assert f"part-{'0' * 16}-1.parquet" in dict(scan.skipped)
    assert "root:" not in str(scan.skipped)
    with pytest.raises(LedgerError, match="not a regular file"):
        kept.read(f"ledger/part-{'0' * 16}-4.parquet")
    (tmp_path / "store/figures").symlink_to(outside)
    with pytest.raises(LedgerError, match="lie in the store"):
        kept.write("figures/x.png", b"")
    assert [p.name for p in outside.iterdir()] == ["secret"]


def test_a_ledger_that_is_a_link_is_one_error(kept: Store, tmp_path: Path) -> None:
    Path(kept.path("ledger")).rename(tmp_path / "elsewhere")
    (tmp_path / "store/ledger").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match="must lie in the store, but is a link"):
        Ledger(kept).scan()


def test_a_store_may_itself_be_a_link(kept: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert len(Ledger(Store(str(tmp_path / "link"))).scan().table) == 18


def test_names_that_are_not_utf8_are_reported(kept: Store) -> None:
    with open(os.path.join(os.fsencode(kept.path("ledger")), b"\xff\x1b[31m"), "wb"):
        pass
    ((_, reason),) = Ledger(kept).scan().skipped
    assert reason == "its name is not a part's"


def test_claims_never_delete_what_is_no_claim(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name in ("thesis~backup.txt", "a~b", "~", "x~y.json.bak", "é~b.json x"):
        store.write(f"claims/{name}", b"{}")
    old = Claims(store, "dead")
    store.write("claims/p~dead.json", b'{"keys": ["a"]}')
    assert Claims(store, "me").take("p", {"a"})
    names = {name for name, _ in store.list("claims")}
    assert {"thesis~backup.txt", "a~b", "~", "x~y.json.bak", "é~b.json x"} <= names
    assert "p~dead.json" not in names, (old, LEASE)


def test_logs_are_private_and_follow_no_link(tmp_path: Path, memory_store: Store) -> None:
    one, other = ray_log(memory_store), ray_log(memory_store)
    assert one.parent != other.parent
    assert one.parent.stat().st_mode & 0o077 == 0
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "ray.log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"), quiet(tmp_path / "ray.log"):
        pass
    assert victim.read_text() == "mine"
    for folder in (one.parent, other.parent):
        folder.rmdir()
