"""Decides from a log whether the rights held when they had to. Pure.

A right is a register with two states. What a change did to it happened at one moment, its
*effect*: after its call began and, for an answered call, before its answer was there. Commits have
one order, which bounds these moments further. Of two effects one is *surely first* when the order
of commits or the bounds say so. Then

(a) An admitted request needs, of each right, a giving that could have its effect before the
    request's answer, and that no surely later taking ended which was answered with 2xx before
    the request began. Without one it was admitted on a right that was gone.
(b) A refused request is a violation when each right that the refusal can be about surely held:
    a giving was answered with 2xx, confirmed by all replicas, before the request began, and
    every taking that could have its effect before the request's answer surely came before that
    giving.

Neither needs a time without faults: a change of unknown outcome may have its effect at any moment
from its start on, unless the log knows its commit; and a giving that faults kept from a replica
does not say that it is confirmed.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from harness.history.record import Change, ChangeKind, Fault, Log, Request, Right, Verdict

# Which rights a refusal with this code can be about; with any other code, all of them.
_ABOUT = {
    "TOKEN_INVALID": {"user", "session"},
    "REFRESH_INVALID": {"user", "session"},
    "SIGNIN_FAILED": {"user"},
    "TENANT_FORBIDDEN": {"assignment"},
    "FORBIDDEN": {"assignment"},
    "TENANT_SUSPENDED": {"tenant"},
}


class Rule(StrEnum):
    GONE = "admitted after a taking away was answered"
    HELD = "refused after a giving was answered"


@dataclass(frozen=True, slots=True)
class Violation:
    """`right` was gone; or it held, as did all others that the refusal can be about."""

    rule: Rule
    request: Request
    right: Right
    near: tuple[Fault, ...]


@dataclass(slots=True)
class Report:
    """`had_to_fail` and `had_to_pass`: what became of the requests on which a rule bore."""

    violations: list[Violation] = field(default_factory=list)
    had_to_fail: Counter[Verdict] = field(default_factory=Counter)
    had_to_pass: Counter[Verdict] = field(default_factory=Counter)


def check(log: Log, fault_aftermath_s: float = 0.0) -> Report:
    """Judges every request. A fault is near one until `fault_aftermath_s` after its end."""
    timelines = _timelines(log)
    report = Report()
    for request in log.requests:
        gone = [right for right in request.needs if timelines[right].gone(request)]
        held = {right for right in request.needs if timelines[right].held(request)}
        if gone:
            report.had_to_fail[request.verdict] += 1
        if held.issuperset(request.needs):
            report.had_to_pass[request.verdict] += 1
        about = _about(request)
        if gone and request.verdict is Verdict.ADMITTED:
            broken = (Rule.GONE, gone[0])
        elif request.verdict is Verdict.REFUSED and about and held.issuperset(about):
            broken = (Rule.HELD, about[0])
        else:
            continue
        near = _near(log.faults, request, fault_aftermath_s)
        report.violations.append(Violation(broken[0], request, broken[1], near))
    return report


@dataclass(frozen=True, slots=True)
class _Effect:
    """What a change did, at some moment from `earliest_s` to `latest_s`, if it did it."""

    change: Change
    commit: int | None
    earliest_s: float
    latest_s: float

    def surely_before(self, other: _Effect) -> bool:
        if self.commit is not None and other.commit is not None:
            return self.commit < other.commit
        return self.latest_s < other.earliest_s


class _Highest:
    """The highest value among all items up to a place, which is looked up and not searched."""

    def __init__(self, items: Iterable[tuple[float, float]]) -> None:
        placed = sorted(items)
        self._places = [place for place, _ in placed]
        self._highest = list(itertools.accumulate((value for _, value in placed), max))

    def before(self, place: float) -> float:
        return self._at(bisect.bisect_left(self._places, place))

    def up_to(self, place: float) -> float:
        return self._at(bisect.bisect_right(self._places, place))

    def _at(self, count: int) -> float:
        return self._highest[count - 1] if count else -math.inf


class _Timeline:
    """One right, over the time of a run."""

    def __init__(self, gives: Sequence[_Effect], takes: Sequence[_Effect]) -> None:
        # A giving explains what began before this, and ends from its earliest moment on.
        self._explains_until = _Highest(
            (give.earliest_s, _first_answer_after(give, takes)) for give in gives
        )
        self._holds_until = _Highest(
            (give.change.end_s, _first_possible_end(give, takes))
            for give in gives
            if give.change.acknowledged and give.change.unconfirmed == 0
        )

    def gone(self, request: Request) -> bool:
        return self._explains_until.up_to(request.end_s) < request.start_s

    def held(self, request: Request) -> bool:
        return self._holds_until.before(request.start_s) > request.end_s


def _first_answer_after(give: _Effect, takes: Iterable[_Effect]) -> float:
    """When the first taking was answered that surely ended what `give` gave."""
    answers = (
        take.change.end_s for take in takes if take.change.acknowledged and give.surely_before(take)
    )
    return min(answers, default=math.inf)


def _first_possible_end(give: _Effect, takes: Iterable[_Effect]) -> float:
    """The first moment at which what `give` gave may have ended."""
    ends = (take.earliest_s for take in takes if not _surely_undone(take, give))
    return min(ends, default=math.inf)


def _surely_undone(take: _Effect, give: _Effect) -> bool:
    if give.change.kind is ChangeKind.SIGN_IN:
        # A session is of the epoch that its sign-in read at any moment since it began, and is
        # void from its beginning when that epoch has ended, whichever commit came first.
        return take.latest_s < give.change.start_s
    return take.surely_before(give)


def _effects(log: Log) -> list[_Effect]:
    if log.commits is None:
        return [
            _Effect(change, None, change.start_s, change.end_s if change.in_effect else math.inf)
            for change in log.changes
            if not change.refused
        ]
    commits = log.commits
    committed = sorted(
        (change for change in log.changes if change.id in commits),
        key=lambda change: commits[change.id],
    )
    # Earlier commits were made before a later one's answer, later ones after an earlier's start.
    earliest = itertools.accumulate((change.start_s for change in committed), max)
    ends = (change.end_s if change.in_effect else math.inf for change in reversed(committed))
    latest = reversed(list(itertools.accumulate(ends, min)))
    made = [
        _Effect(change, commits[change.id], first, last)
        for change, first, last in zip(committed, earliest, latest, strict=True)
    ]
    # It was so already; at some moment of the call, which found it so.
    found = [
        _Effect(change, None, change.start_s, change.end_s)
        for change in log.changes
        if change.acknowledged and change.id not in commits
    ]
    return made + found


def _timelines(log: Log) -> dict[Right, _Timeline]:
    by_subject: defaultdict[Right, list[_Effect]] = defaultdict(list)
    for effect in _effects(log):
        right = effect.change.right
        by_subject[right[:2]].append(effect)
        if effect.change.kind is ChangeKind.DISABLE:
            # It ends the user's sessions, too, and enabling does not bring them back.
            by_subject["session", right[1]].append(effect)
    timelines: dict[Right, _Timeline] = {}
    for right in {right for request in log.requests for right in request.needs}:
        gives: list[_Effect] = []
        takes: list[_Effect] = []
        for effect in by_subject[right[:2]]:
            kind, changed = effect.change.kind, effect.change.right
            if kind.gives:
                if changed == right:
                    gives.append(effect)
            elif kind is ChangeKind.DISABLE or right[: len(changed)] == changed:
                takes.append(effect)
        timelines[right] = _Timeline(gives, takes)
    return timelines


def _about(request: Request) -> list[Right]:
    kinds = _ABOUT.get(request.code)
    return [right for right in request.needs if kinds is None or right[0] in kinds]


def _near(faults: Iterable[Fault], request: Request, aftermath_s: float) -> tuple[Fault, ...]:
    return tuple(
        fault
        for fault in faults
        if fault.start_s < request.end_s and request.start_s < fault.end_s + aftermath_s
    )
