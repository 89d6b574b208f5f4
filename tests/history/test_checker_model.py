"""The checker against a naive model: every order in which it all may have happened, tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.history.checker import Rule, check
from harness.history.record import Change, ChangeKind, Log, Request, Right, Verdict
from hypothesis import given
from hypothesis import strategies as st

RIGHT: Right = ("tenant", "t1")
# Few enough that moments coincide.
MOMENTS = st.integers(0, 12)


@st.composite
def intervals(draw: st.DrawFn) -> tuple[float, float]:
    start_s = draw(MOMENTS)
    return start_s, start_s + draw(st.integers(1, 6))


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    made: list[Change] = []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([ChangeKind.SUSPEND, ChangeKind.RESUME]))
        start_s, end_s = draw(intervals())
        status = draw(st.sampled_from([200, 200, 200, 0, 409]))
        unconfirmed = draw(st.sampled_from([0, 0, 1]))
        change = Change(
            str(number), kind, RIGHT, "r1", start_s, end_s, status, unconfirmed=unconfirmed
        )
        made.append(change)
    return made


@st.composite
def requests(draw: st.DrawFn) -> Request:
    start_s, end_s = draw(intervals())
    status = draw(st.sampled_from([200, 403, 503]))
    return Request("c", "r2", "u", "t1", "query", (RIGHT,), start_s, end_s, status)


def orders(made: Sequence[Change]) -> Iterator[tuple[Change, ...]]:
    """Every order in which those of the changes that had an effect may have had it."""
    certain = [change for change in made if change.acknowledged]
    uncertain = [change for change in made if not change.acknowledged and not change.refused]
    for count in range(len(uncertain) + 1):
        for also in itertools.combinations(uncertain, count):
            for order in itertools.permutations([*certain, *also]):
                if all(
                    not (later.acknowledged and later.end_s < earlier.start_s)
                    for earlier, later in itertools.combinations(order, 2)
                ):
                    yield order


def states(order: Sequence[Change], request: Request) -> Iterator[bool]:
    """Whether the right was there, in each state that the request may have seen."""
    for length in range(len(order) + 1):
        seen, unseen = order[:length], order[length:]
        too_old = any(
            change.acknowledged
            and change.end_s < request.start_s
            and not (change.kind.gives and change.unconfirmed)
            for change in unseen
        )
        too_new = any(change.start_s > request.end_s for change in seen)
        if not too_old and not too_new:
            yield bool(seen) and seen[-1].kind.gives


def naive(made: Sequence[Change], request: Request) -> Rule | None:
    possible = {state for order in orders(made) for state in states(order, request)}
    if request.verdict is Verdict.ADMITTED and True not in possible:
        return Rule.GONE
    if request.verdict is Verdict.REFUSED and False not in possible:
        return Rule.HELD
    return None


@given(changes(), requests())
def test_it_finds_exactly_what_no_order_of_events_explains(
    made: list[Change], request: Request
) -> None:
    expected = naive(made, request)
    judged = [violation.rule for violation in check(Log([request], made)).violations]
    assert judged == ([] if expected is None else [expected])


@dataclass
class Store:
    """A right, replicas that show it later or sooner, and a clock of whole seconds."""

    log: Log
    states: list[bool]
    applied: list[int]
    now_s: int = 0

    def change(self, kind: ChangeKind, lag: int | None, outcome: str) -> None:
        """One call. Replica `lag`, if any, has not applied the commit at the answer."""
        start_s, number = self.tick(), len(self.log.changes)
        if outcome != "lost before":
            self.states.append(kind.gives)
            assert self.log.commits is not None
            self.log.commits[str(number)] = len(self.states)
            newest = len(self.states) - 1
            self.applied = [
                seen if place == lag else newest for place, seen in enumerate(self.applied)
            ]
        status = 200 if outcome == "answered" else 0
        change = Change(str(number), kind, RIGHT, "r1", start_s, self.tick(), status)
        self.log.changes.append(change)

    def ask(self, replica: int) -> bool:
        start_s = self.tick()
        admitted = self.states[self.applied[replica]]
        status = 200 if admitted else 403
        request = Request("c", "r", "u", "t1", "query", (RIGHT,), start_s, self.tick(), status)
        self.log.requests.append(request)
        return admitted

    def tick(self) -> int:
        self.now_s += 1
        return self.now_s


CALLS = st.tuples(
    st.sampled_from([ChangeKind.SUSPEND, ChangeKind.RESUME]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from(["answered", "answered", "lost before", "lost after"]),
)


@given(st.lists(st.one_of(CALLS, st.sampled_from([0, 1])), max_size=20))
def test_it_finds_each_answer_that_is_older_than_what_was_answered(
    steps: list[tuple[ChangeKind, int | None, str] | int],
) -> None:
    """With the commits known it also sees through answers that were lost."""
    store = Store(Log(commits={}), [False], [0, 0])
    expected: list[bool] = []
    promised = 0
    for step in steps:
        if isinstance(step, int):
            admitted = store.ask(step)
            explained = promised == 0 and not admitted
            explained = explained or admitted in store.states[promised:]
            expected.append(not explained)
        else:
            store.change(*step)
            if step[2] == "answered":
                promised = len(store.states) - 1
    broken = {id(violation.request) for violation in check(store.log).violations}
    assert [id(request) in broken for request in store.log.requests] == expected
