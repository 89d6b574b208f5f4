"""A log can be written down and read again, whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from harness.history.checker import check
from harness.history.record import NO_ANSWER, Change, ChangeKind, Fault, Log, Request, Verdict

LOG = Log(
    requests=[
        Request(
            "c1",
            "r2",
            "u1",
            "t1",
            "query",
            (("user", "u1"), ("tenant", "t1")),
            1.5,
            2.25,
            403,
            "NO",
        )
    ],
    changes=[
        Change("w1-1", ChangeKind.END_SESSIONS, ("session", "u1"), "r1", 0.5, 0.75, 204, "", 17),
        Change("w1-2", ChangeKind.ASSIGN, ("assignment", "u1", "t1"), "r1", 1, 2, 201, "", 19, 1),
    ],
    faults=[Fault("cut", "r2", 0.25, 3.0)],
    commits={"w1-1": 17},
)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    LOG.write(tmp_path / "log")
    assert Log.read(tmp_path / "log") == LOG


def test_a_log_whose_commits_are_not_known_stays_one(tmp_path: Path) -> None:
    Log().write(tmp_path / "log")
    assert Log.read(tmp_path / "log").commits is None


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", "nothing", '{"is": "poem"}', '{"is": "fault", "kind": "cut"}']
)
def test_what_is_no_log_is_not_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(line + "\n")
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        Log.read(tmp_path / "log")


def test_each_status_has_one_verdict() -> None:
    def verdict(status: int) -> Verdict:
        return Request("c", "r", "u", "t", "query", (), 0, 1, status).verdict

    assert {status for status in range(600) if verdict(status) is Verdict.REFUSED} == {401, 403}
    admitted = {status for status in range(600) if verdict(status) is Verdict.ADMITTED}
    assert admitted == {*range(200, 300), 404, 409, 413, 415, 422}


def test_a_change_without_an_answer_yet_may_have_any_outcome() -> None:
    """What it let pass meanwhile is no violation, however the log goes on."""
    right = ("tenant", "t1")
    taken = Change("w-1", ChangeKind.SUSPEND, right, "r1", 0, 1, 200)
    giving = Change("w-2", ChangeKind.RESUME, right, "r1", 2, math.inf, NO_ANSWER)
    request = Request("c", "r2", "u", "t1", "query", (right,), 3, 4, 200)
    log = Log([request], [taken], under_way={giving.id: giving})
    assert check(log).violations
    assert not check(log.so_far()).violations
