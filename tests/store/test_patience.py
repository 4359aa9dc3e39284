from __future__ import annotations

import errno
import random

import pytest

from raysweep.errors import LedgerError
from raysweep.store import patience as module
from raysweep.store.patience import full, patiently, transient


class Failing:
    """Raises these errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.001, 0.002))
    monkeypatch.delenv("RAYSWEEP_PATIENCE", raising=False)


PASSING = [
    OSError(errno.EIO, "I/O error"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7, Could not connect to server"),
    OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation: SlowDown"),
    OSError("AWS Error UNKNOWN (HTTP status 429) during PutObject operation: too many requests"),
    TimeoutError("no answer"),
    ConnectionResetError("reset"),
    RuntimeError("what an fsspec file system may raise"),
]
LASTING = [
    FileNotFoundError(errno.ENOENT, "gone"),
    PermissionError(errno.EACCES, "denied"),
    OSError(errno.EROFS, "read-only"),
    OSError(errno.ENAMETOOLONG, "too long"),
    OSError(errno.EFBIG, "file too large"),
    OSError(errno.ENOSYS, "function not implemented"),
    OSError(errno.EOPNOTSUPP, "operation not supported"),
    OSError("AWS Error ACCESS_DENIED during PutObject operation: no"),
    OSError("AWS Error NO_SUCH_BUCKET during PutObject operation: no"),
    OSError("AWS Error UNKNOWN (HTTP status 411) during PutObject operation: MissingContentLength"),
    ValueError("a mistake"),
    LedgerError("ours"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_passes_is_tried_again(error: Exception) -> None:
    action = Failing(error, error, error)
    assert transient(error)
    assert patiently(action) == "answer"
    assert action.calls == 4


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_lasts_is_raised_at_once(error: Exception) -> None:
    action = Failing(error)
    with pytest.raises(type(error)) as raised:
        patiently(action)
    assert raised.value is error
    assert action.calls == 1


def test_patience_ends_with_the_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    action = Failing(*[OSError(errno.EIO, str(i)) for i in range(100_000)])
    with pytest.raises(OSError, match=str(errno.EIO)) as raised:
        patiently(action)
    assert 2 <= action.calls < 1000
    assert raised.value.strerror == str(action.calls - 1)


def test_without_patience_there_is_one_try() -> None:
    action = Failing(OSError(errno.EIO, "once"))
    with pytest.raises(OSError, match="once"):
        patiently(action, seconds=0.0)
    assert action.calls == 1


def test_the_environment_sets_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_PATIENCE", "0")
    with pytest.raises(OSError, match="once"):
        patiently(Failing(OSError(errno.EIO, "once")))
    monkeypatch.setenv("RAYSWEEP_PATIENCE", "a while")
    with pytest.raises(
        LedgerError, match="RAYSWEEP_PATIENCE: must be a number of seconds, 0 or more, but got 'a while'"
    ):
        patiently(Failing(OSError(errno.EIO, "once")))


def test_a_full_disk_is_told_from_others() -> None:
    assert full(OSError(errno.ENOSPC, "full"))
    assert full(OSError(errno.EDQUOT, "quota"))
    assert not full(OSError(errno.EIO, "broken"))


def test_waiting_leaves_a_users_random_numbers_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    patiently(Failing(OSError(errno.EIO, "once")))
    assert random.random() == expected
