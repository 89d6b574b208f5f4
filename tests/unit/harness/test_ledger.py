"""The ledger sees what is not as it was answered."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from harness.ledger import Asked, check

from tidegate.store.changes import Busy, CommitResult, Committed, Conflict, Unavailable, Unknown
from tidegate.store.reading import Stored

ENTRIES = [
    Stored(f"$KV.iam.b.x-{place}", orjson.dumps({"commit": "x"}), {}, 11 + place)
    for place in range(3)
]
EVENT = Stored("tg.iam.event._.b.x.made.me.id", orjson.dumps({"commit": "x"}), {}, 14)
NOTHING = [None, None, None]
DONE, REFUSED = Committed(14), Conflict("b.x-0", 7)


def asked(result: CommitResult, *, doomed: bool = False) -> Asked:
    keys = tuple(f"b.x-{place}" for place in range(3))
    return Asked("x", keys, has_event=True, doomed=doomed, result=result)


@pytest.mark.parametrize("result", [DONE, Unknown()])
def test_a_whole_commit_is_right_when_done_or_unknown(result: CommitResult) -> None:
    check(asked(result), ENTRIES, [EVENT])


@pytest.mark.parametrize("result", [REFUSED, Busy(), Unavailable(), Unknown()])
def test_nothing_is_right_when_refused_or_unknown(result: CommitResult) -> None:
    check(asked(result), NOTHING, [])


@pytest.mark.parametrize("result", [REFUSED, Busy(), Unavailable()])
def test_a_refused_commit_that_is_there_is_seen(result: CommitResult) -> None:
    with pytest.raises(AssertionError, match="entries are there"):
        check(asked(result), ENTRIES, [EVENT])
    with pytest.raises(AssertionError, match="an event is there"):
        check(asked(result), NOTHING, [EVENT])


def test_an_acknowledged_commit_that_is_not_there_is_seen() -> None:
    with pytest.raises(AssertionError, match="entries are missing"):
        check(asked(DONE), NOTHING, [])


@pytest.mark.parametrize("result", [DONE, Unknown()])
def test_a_part_of_a_commit_is_seen(result: CommitResult) -> None:
    with pytest.raises(AssertionError):
        check(asked(result), [*ENTRIES[:2], None], [EVENT])
    with pytest.raises(AssertionError, match="with 0 events"):
        check(asked(result), ENTRIES, [])


def test_an_event_without_its_commit_is_seen() -> None:
    with pytest.raises(AssertionError):
        check(asked(Unknown()), NOTHING, [EVENT])


def test_a_commit_written_twice_is_seen() -> None:
    with pytest.raises(AssertionError, match="with 2 events"):
        check(asked(DONE), ENTRIES, [EVENT, replace(EVENT, sequence=20)])
    again = [replace(entry, sequence=entry.sequence + 10) for entry in ENTRIES]
    with pytest.raises(AssertionError):
        check(asked(DONE), [*ENTRIES[:1], *again[1:]], [EVENT])


def test_a_revision_that_is_not_the_commits_is_seen() -> None:
    with pytest.raises(AssertionError):
        check(asked(Committed(15)), ENTRIES, [EVENT])


def test_a_commit_whose_guard_was_passed_over_is_seen() -> None:
    with pytest.raises(AssertionError, match="expects what is not so"):
        check(asked(DONE, doomed=True), ENTRIES, [EVENT])
    with pytest.raises(AssertionError, match="entries are there"):
        check(asked(Unknown(), doomed=True), ENTRIES, [EVENT])
