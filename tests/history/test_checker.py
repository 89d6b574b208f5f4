"""The checker on histories written by hand: what it must find, and what it must let pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.history.checker import Rule, check
from harness.history.record import Change, ChangeKind, Fault, Log, Request, Right, Verdict

USER: Right = ("user", "u1")
TENANT: Right = ("tenant", "t1")
ASSIGNMENT: Right = ("assignment", "u1", "t1")
SESSION: Right = ("session", "u1", "s1")
ALL_SESSIONS: Right = ("session", "u1")

GIVES = {
    USER: ChangeKind.ENABLE,
    TENANT: ChangeKind.RESUME,
    ASSIGNMENT: ChangeKind.ASSIGN,
    SESSION: ChangeKind.SIGN_IN,
}
TAKES = {
    USER: ChangeKind.DISABLE,
    TENANT: ChangeKind.SUSPEND,
    ASSIGNMENT: ChangeKind.UNASSIGN,
    SESSION: ChangeKind.END_SESSION,
    ALL_SESSIONS: ChangeKind.END_SESSIONS,
}


def give(start_s: float, end_s: float, right: Right = USER, status: int = 200) -> Change:
    return Change(f"give-{start_s}", GIVES[right], right, "r1", start_s, end_s, status)


def take(start_s: float, end_s: float, right: Right = USER, status: int = 204) -> Change:
    return Change(f"take-{start_s}", TAKES[right], right, "r1", start_s, end_s, status)


def ask(
    start_s: float, end_s: float, status: int, *needs: Right, code: str = "", replica: str = "r2"
) -> Request:
    used = needs or (USER,)
    return Request("c1", replica, "u1", "t1", "query", used, start_s, end_s, status, code)


def found(*records: Change | Request, commits: dict[str, int] | None = None) -> list[Rule]:
    log = Log(commits=commits)
    log.changes = [record for record in records if isinstance(record, Change)]
    log.requests = [record for record in records if isinstance(record, Request)]
    return [violation.rule for violation in check(log).violations]


def in_order(*changes: Change) -> dict[str, int]:
    """The changes' commits, in this order."""
    return {change.id: place for place, change in enumerate(changes, start=1)}


@pytest.mark.parametrize("right", GIVES)
def test_what_was_given_may_be_used(right: Right) -> None:
    assert found(give(0, 1, right), ask(2, 3, 200, right)) == []


@pytest.mark.parametrize("right", GIVES)
def test_what_was_taken_away_must_not_be_used(right: Right) -> None:
    history = [give(0, 1, right), take(2, 3, right)]
    assert found(*history, ask(4, 5, 200, right)) == [Rule.GONE]
    assert found(*history, ask(4, 5, 403, right)) == []


def test_what_was_never_given_must_not_be_used() -> None:
    assert found(ask(0, 1, 200)) == [Rule.GONE]
    assert found(give(2, 3), ask(0, 1, 200)) == [Rule.GONE]


def test_a_request_that_began_before_the_answer_may_still_be_admitted() -> None:
    assert found(give(0, 1), take(2, 3), ask(2.9, 9, 200)) == []
    assert found(give(0, 1), take(2, 3), ask(3, 9, 200)) == []


@pytest.mark.parametrize("status", [404, 409, 413, 415, 422])
def test_answers_that_come_after_admission_count_as_admitted(status: int) -> None:
    assert found(give(0, 1), take(2, 3), ask(4, 5, status)) == [Rule.GONE]


@pytest.mark.parametrize("status", [0, 400, 401, 403, 429, 500, 502, 503, 504])
def test_other_answers_do_not_count_as_admitted(status: int) -> None:
    assert found(give(0, 1), take(2, 3), ask(4, 5, status)) == []


def test_a_taking_away_holds_until_a_later_giving_begins() -> None:
    history = [give(0, 1), take(2, 3), give(6, 7)]
    assert found(*history, ask(4, 5.9, 200)) == [Rule.GONE]
    assert found(*history, ask(4, 6, 200)) == []
    assert found(*history, ask(8, 9, 200)) == []


def test_a_giving_that_was_refused_gives_nothing() -> None:
    assert found(give(0, 1), take(2, 3), give(4, 5, status=409), ask(6, 7, 200)) == [Rule.GONE]


@pytest.mark.parametrize("status", [0, 503])
def test_a_giving_of_unknown_outcome_may_happen_at_any_later_time(status: int) -> None:
    lost = give(4, 5, status=status)
    history = [give(0, 1), take(2, 3), lost, take(6, 7)]
    assert found(*history, ask(8, 9, 200)) == []


def test_the_commits_tell_that_a_giving_of_unknown_outcome_came_to_nothing() -> None:
    first, ended, lost, again = give(0, 1), take(2, 3), give(4, 5, status=0), take(6, 7)
    history = [first, ended, lost, again]
    use = ask(8, 9, 200)
    assert found(*history, use, commits=in_order(first, ended, again)) == [Rule.GONE]
    assert found(*history, use, commits=in_order(first, ended, lost, again)) == [Rule.GONE]
    assert found(*history, use, commits=in_order(first, ended, again, lost)) == []


def test_a_giving_beside_the_taking_may_have_come_after_it() -> None:
    assert found(give(2, 5), take(3, 4), ask(6, 7, 200)) == []


def test_the_commits_tell_which_of_two_at_the_same_time_came_last() -> None:
    beside, ended = give(2, 5), take(3, 4)
    use = ask(6, 7, 200)
    assert found(beside, ended, use, commits=in_order(beside, ended)) == [Rule.GONE]
    assert found(beside, ended, use, commits=in_order(ended, beside)) == []


@pytest.mark.parametrize("status", [0, 409, 500, 503])
def test_only_a_taking_away_that_was_answered_with_2xx_promises_anything(status: int) -> None:
    assert found(give(0, 1), take(2, 3, status=status), ask(4, 5, 200)) == []


def test_a_taking_that_found_nothing_to_take_promises_as_much() -> None:
    first, ended, repeated = give(0, 1), take(2, 3, status=0), take(4, 5)
    commits = in_order(first, ended)
    assert found(first, ended, ask(4.5, 5, 200), repeated, commits=commits) == []
    assert found(first, ended, repeated, ask(6, 7, 200), commits=commits) == [Rule.GONE]


def test_one_missing_right_is_enough() -> None:
    needs = (USER, TENANT, ASSIGNMENT, SESSION)
    history = [give(0, 1, right) for right in needs]
    for right in needs:
        log = Log(changes=[*history, take(2, 3, right)], requests=[ask(4, 5, 200, *needs)])
        (violation,) = check(log).violations
        assert violation.right == right
    assert found(*history, ask(4, 5, 200, *needs)) == []


def test_ending_all_sessions_ends_each_that_was_there() -> None:
    later: Right = ("session", "u1", "s2")
    others: Right = ("session", "u2", "s3")
    history = [
        give(0, 1, SESSION),
        Change("in-3", ChangeKind.SIGN_IN, others, "r1", 0, 1, 200),
        take(2, 3, ALL_SESSIONS),
        Change("in-2", ChangeKind.SIGN_IN, later, "r1", 4, 5, 200),
    ]
    assert found(*history, ask(6, 7, 200, SESSION)) == [Rule.GONE]
    assert found(*history, ask(6, 7, 200, later)) == []
    assert found(*history, ask(6, 7, 200, others)) == []
    assert found(*history, ask(6, 7, 401, others)) == [Rule.HELD]


@pytest.mark.parametrize("right", GIVES)
@pytest.mark.parametrize("status", [401, 403])
def test_what_was_given_must_not_be_refused(right: Right, status: int) -> None:
    assert found(give(0, 1, right), ask(2, 3, status, right)) == [Rule.HELD]


@pytest.mark.parametrize("status", [0, 200, 400, 404, 429, 500, 503])
def test_only_a_definite_refusal_counts_as_one(status: int) -> None:
    assert found(give(0, 1), ask(2, 3, status)) == []


def test_a_giving_that_is_not_confirmed_promises_nothing() -> None:
    assert found(replace(give(0, 1), unconfirmed=1), ask(2, 3, 403)) == []
    assert found(give(0, 1, status=503), ask(2, 3, 403)) == []


def test_a_request_that_began_before_the_givings_answer_may_still_be_refused() -> None:
    assert found(give(0, 2), ask(1.9, 3, 403)) == []
    assert found(give(0, 2), ask(2, 3, 403)) == []


def test_a_taking_that_has_begun_explains_a_refusal() -> None:
    assert found(give(0, 1), take(3, 9), ask(2, 3.1, 403)) == []
    assert found(give(0, 1), take(3, 9), ask(2, 2.9, 403)) == [Rule.HELD]


def test_a_taking_that_was_refused_explains_nothing() -> None:
    assert found(give(0, 1), take(2, 3, status=409), ask(4, 5, 403)) == [Rule.HELD]


@pytest.mark.parametrize("status", [0, 503])
def test_a_taking_of_unknown_outcome_explains_every_later_refusal(status: int) -> None:
    lost = take(0, 1, status=status)
    assert found(lost, give(2, 3), ask(4, 5, 403)) == []


def test_the_commits_tell_when_a_taking_of_unknown_outcome_happened() -> None:
    lost, given = take(0, 1, status=0), give(2, 3)
    refused = ask(4, 5, 403)
    assert found(lost, given, refused, commits=in_order(lost, given)) == [Rule.HELD]
    assert found(lost, given, refused, commits=in_order(given)) == [Rule.HELD]
    assert found(lost, given, refused, commits=in_order(given, lost)) == []


def test_later_commits_bound_when_an_earlier_one_happened() -> None:
    """The first call ends late, but its commit came before one that was answered early."""
    slow, quick, signed_in = (
        take(0, 20, ALL_SESSIONS),
        take(1, 2, ALL_SESSIONS),
        give(3, 4, SESSION),
    )
    refused = ask(5, 6, 401, SESSION)
    history = (slow, quick, signed_in)
    assert found(*history, refused, commits=in_order(slow, quick, signed_in)) == [Rule.HELD]
    assert found(*history, refused, commits=in_order(quick, slow, signed_in)) == []


def test_earlier_commits_bound_when_a_later_one_happened() -> None:
    """The giving was under way for long, but its commit came after one that was begun late."""
    slow, late = give(0, 20), take(10, 11)
    admitted = ask(5, 6, 200)
    assert found(slow, late, admitted, commits=in_order(late, slow)) == [Rule.GONE]
    assert found(slow, late, admitted, commits=in_order(slow, late)) == []


def test_of_two_that_touch_neither_is_surely_first() -> None:
    assert found(give(0, 2), take(2, 3), ask(4, 5, 200)) == []
    assert found(take(0, 2), give(2, 3), ask(4, 5, 403)) == []
    assert found(give(0, 1), take(3, 4), ask(2, 3, 403)) == []


def test_a_session_may_be_void_though_its_commit_came_after_the_ending() -> None:
    signed_in, ended = give(2, 6, SESSION), take(3, 4, ALL_SESSIONS)
    refused = ask(7, 8, 401, SESSION)
    assert found(signed_in, ended, refused, commits=in_order(ended, signed_in)) == []


def test_disabling_a_user_ends_its_sessions_for_good() -> None:
    later: Right = ("session", "u1", "s2")
    history = [
        give(0, 1),
        give(0, 1, SESSION),
        take(2, 3),
        give(4, 5),
        Change("in-2", ChangeKind.SIGN_IN, later, "r1", 6, 7, 200),
    ]
    assert found(*history, ask(8, 9, 200, USER, SESSION)) == [Rule.GONE]
    assert found(*history, ask(8, 9, 401, USER, SESSION, code="TOKEN_INVALID")) == []
    assert found(*history, ask(8, 9, 200, USER, later)) == []
    assert found(*history, ask(8, 9, 401, USER, later, code="TOKEN_INVALID")) == [Rule.HELD]


def test_an_assignment_that_is_not_there_any_more_holds_as_taken_away() -> None:
    gone = replace(take(2, 3, ASSIGNMENT, status=404), code="NOT_FOUND")
    assert found(give(0, 1, ASSIGNMENT), gone, ask(4, 5, 200, ASSIGNMENT)) == [Rule.GONE]
    nobody = replace(take(2, 3, status=404), code="NOT_FOUND")
    assert found(give(0, 1), nobody, ask(4, 5, 200)) == []


def test_a_refusal_is_held_against_the_rights_that_it_names() -> None:
    needs = (USER, SESSION, TENANT, ASSIGNMENT)
    history = [*(give(0, 1, right) for right in needs), take(2, 3, ASSIGNMENT)]
    codes = ["TENANT_FORBIDDEN", "FORBIDDEN", "TENANT_SUSPENDED", "TOKEN_INVALID", "OTHER"]
    rules = {code: found(*history, ask(4, 5, 403, *needs, code=code)) for code in codes}
    assert rules == {
        "TENANT_FORBIDDEN": [],
        "FORBIDDEN": [],
        "TENANT_SUSPENDED": [Rule.HELD],
        "TOKEN_INVALID": [Rule.HELD],
        "OTHER": [],
    }


def test_a_refusal_that_names_no_right_of_the_request_is_not_judged() -> None:
    assert found(give(0, 1), ask(2, 3, 403, USER, code="TENANT_SUSPENDED")) == []


def test_the_report_counts_what_the_rules_bore_on() -> None:
    requests = [ask(2, 3, 200), ask(2, 3, 503), ask(6, 7, 403), ask(6, 7, 200), ask(3.5, 4.5, 200)]
    report = check(Log(changes=[give(0, 1), take(4, 5)], requests=requests))
    assert report.had_to_pass == {Verdict.ADMITTED: 1, Verdict.UNCLEAR: 1}
    assert report.had_to_fail == {Verdict.REFUSED: 1, Verdict.ADMITTED: 1}


def test_a_violation_names_the_faults_around_it() -> None:
    faults = [Fault("cut", "r2", start, start + 1) for start in (0.0, 2.0, 3.5, 7.0)]
    log = Log(changes=[give(0, 1), take(2, 3)], requests=[ask(4, 5, 200)], faults=faults)
    near = [violation.near for violation in check(log, fault_aftermath_s=1.5).violations]
    assert near == [(faults[1], faults[2])]


def test_an_empty_log_has_no_violations() -> None:
    assert found() == []
