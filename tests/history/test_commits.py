"""What the stream says about the calls, held against what their answers said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.history.commits import SET_UP, match_commits
from harness.history.record import Change, ChangeKind, Log

DONE = Change("w-1", ChangeKind.ASSIGN, ("assignment", "u", "t"), "r1", 0, 1, 201, revision=7)


def problems(*events: tuple[str, int], change: Change = DONE) -> list[str]:
    return match_commits(Log(changes=[change]), events)


def test_the_commits_are_noted_and_those_of_others_are_not() -> None:
    log = Log(changes=[DONE])
    assert match_commits(log, [("tidegate admin", 3), ("w-1", 7), ("w-2", 9)]) == []
    assert log.commits == {"w-1": 7}


def test_a_call_is_carried_out_once() -> None:
    assert len(problems(("w-1", 7), ("w-1", 9))) == 1


def test_what_was_answered_is_there() -> None:
    assert len(problems()) == 1


@pytest.mark.parametrize("status", [400, 404, 409])
def test_what_was_refused_is_not_there(status: int) -> None:
    refused = replace(DONE, status=status)
    assert problems(change=refused) == []
    assert len(problems(("w-1", 7), change=refused)) == 1


@pytest.mark.parametrize("status", [0, 503])
def test_what_was_left_open_may_be_there_or_not(status: int) -> None:
    left_open = replace(DONE, status=status, revision=None)
    assert problems(change=left_open) == []
    assert problems(("w-1", 7), change=left_open) == []


def test_the_answer_names_the_commit() -> None:
    assert len(problems(("w-1", 8))) == 1


def test_what_was_so_already_needs_no_commit() -> None:
    assert problems(change=replace(DONE, kind=ChangeKind.ENABLE)) == []


def test_what_was_set_up_before_is_not_asked_about() -> None:
    assert problems(change=replace(DONE, id=f"{SET_UP}-1")) == []
