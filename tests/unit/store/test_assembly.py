"""Assembly against a model of the stream: one message per key, commits in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.store.assembly import NOT_SHOWN, Assembler, Member
from tidegate.store.changes import Entry


def member(sequence: int, key: str | None, end: int | None = None) -> Member:
    entry = None if key is None else Entry(key, {"n": sequence}, sequence)
    return Member(sequence, end or sequence, entry)


def shown(released: Iterable[Entry]) -> list[int]:
    return [entry.revision for entry in released]


def test_a_commit_of_one_is_shown_at_once() -> None:
    assembler = Assembler(40)
    assert shown(assembler.deliver(member(41, "a"), pending=0)) == [41]
    assert assembler.applied == 41


def test_a_commit_is_held_until_its_last_member() -> None:
    assembler = Assembler(41)
    assert not assembler.deliver(member(42, "a", end=44), pending=0)
    assert assembler.applied == 41
    assert shown(assembler.deliver(member(44, "c", end=44), pending=0)) == [42, 44]
    assert assembler.applied == 44


def test_an_event_completes_a_commit_without_changing_a_view() -> None:
    assembler = Assembler(0)
    assert not assembler.deliver(member(1, "a", end=2), pending=0)
    assert shown(assembler.deliver(member(2, None, end=2), pending=0)) == [1]
    assert assembler.applied == 2


def test_a_commit_whose_end_is_not_followed_is_shown_by_the_next_message() -> None:
    assembler = Assembler(0)
    assert not assembler.deliver(member(1, "a", end=3), pending=0)
    assert shown(assembler.deliver(member(9, "b"), pending=0)) == [1, 9]


def test_a_commit_whose_end_is_not_followed_is_shown_by_a_heartbeat() -> None:
    assembler = Assembler(0)
    assert not assembler.deliver(member(1, "a", end=3), pending=0)
    assert not assembler.advance(2)
    assert assembler.applied == 0
    assert shown(assembler.advance(3)) == [1]
    assert assembler.applied == 3


def test_a_heartbeat_from_before_changes_nothing() -> None:
    assembler = Assembler(10)
    assert not assembler.advance(7)
    assert (assembler.position, assembler.applied) == (10, 10)


def test_whoever_is_behind_shows_nothing_between() -> None:
    # 7 and 8 moved something to b from a, 9 and 10 moved it on to c. Nobody will deliver 7: 10 is
    # in its place. Showing 8 by itself would show it nowhere.
    assembler = Assembler(6)
    assert not assembler.deliver(member(8, "a", end=8), pending=2)
    assert not assembler.deliver(member(9, "c", end=10), pending=1)
    assert assembler.applied == 6
    assert shown(assembler.deliver(member(10, "b", end=10), pending=0)) == [8, 9, 10]


def test_a_snapshot_of_whole_commits_is_shown_at_once() -> None:
    assembler = Assembler.from_snapshot([member(5, "b", end=5), member(3, "a", end=4)], 5)
    assert assembler.applied == NOT_SHOWN
    assert shown(assembler.advance(5)) == [3, 5]
    assert assembler.applied == 5


def test_an_empty_snapshot_is_shown_at_once() -> None:
    assembler = Assembler.from_snapshot([], 17)
    assert not assembler.advance(17)
    assert assembler.applied == 17


def test_a_snapshot_with_a_part_of_a_commit_waits_for_the_rest() -> None:
    assembler = Assembler.from_snapshot([member(3, "a"), member(6, "b", end=7)], 5)
    assert not assembler.advance(5)
    assert not assembler.deliver(member(6, "b", end=7), pending=0)
    assert assembler.applied == NOT_SHOWN
    assert shown(assembler.deliver(member(7, "c", end=7), pending=0)) == [3, 6, 6, 7]
    assert assembler.applied == 7


# --- the model ---

FOLLOWED = ("a", "b", "c", "d")
KEYS = (*FOLLOWED, "x", "y")


@dataclass
class Stream:
    """What a stream with one message per subject holds, and what it held after each commit."""

    messages: dict[int, Member] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    last: int = 0
    history: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    expired: set[str] = field(default_factory=set)

    def write(self, sequence: int, key: str, end: int) -> None:
        self.messages.pop(self.newest.get(key, 0), None)
        self.newest[key] = self.last = sequence
        self.messages[sequence] = member(sequence, key if key in FOLLOWED else None, end)
        self.expired.discard(key)
        if sequence == end:
            self.history[end] = {
                each: at for each, at in self.newest.items() if each in FOLLOWED and at
            }

    def expire(self, key: str) -> None:
        self.messages.pop(self.newest.get(key, 0), None)
        self.expired.add(key)

    def after(self, position: int, events: Sequence[str]) -> list[Member]:
        """What a consumer still has to deliver: of the keys followed, and of the events."""
        wanted = {self.newest[key] for key in (*FOLLOWED, *events) if key in self.newest}
        return [self.messages[at] for at in sorted(wanted) if at > position and at in self.messages]


@dataclass
class Replica:
    """A consumer of the stream and the view that it feeds."""

    stream: Stream
    assembler: Assembler
    state: dict[str, int] = field(default_factory=dict)
    loaded: bool = True

    def step(self) -> None:
        left = self.stream.after(self.assembler.position, events=("x",))
        if left:
            self.show(self.assembler.deliver(left[0], pending=len(left) - 1))
        else:
            self.show(self.assembler.advance(self.stream.last))

    def restart(self) -> None:
        if self.loaded:
            self.assembler = Assembler(self.assembler.applied)

    def show(self, released: Sequence[Entry]) -> None:
        applied = self.assembler.applied
        if applied == NOT_SHOWN:
            assert not released
            return
        if self.loaded:
            for entry in released:
                assert entry.revision > self.state.get(entry.key, 0), "goes backwards"
        self.loaded = True
        for entry in sorted(released, key=lambda entry: entry.revision):
            self.state[entry.key] = entry.revision
        if released:
            # Whatever is shown is what was there after some commit; of keys whose entry has
            # expired, the view may know any older one.
            sure = set(FOLLOWED) - self.stream.expired
            state = {key: at for key, at in self.state.items() if key in sure}
            assert state in [
                {key: at for key, at in then.items() if key in sure}
                for then in self.stream.history.values()
            ]


COMMIT = st.lists(st.sampled_from(KEYS), min_size=1, max_size=5, unique=True)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), COMMIT),
        st.tuples(st.just("expire"), st.sampled_from(FOLLOWED)),
        st.tuples(st.sampled_from(["step", "restart", "start"]), st.none()),
    ),
    max_size=60,
)


def _run(stream: Stream, replicas: list[Replica], action: str, argument: object) -> None:
    if action == "expire":
        assert isinstance(argument, str)
        stream.expire(argument)
    elif action == "start":
        # The last sequence is read, a commit follows, and the snapshot comes amid another.
        last = stream.last
        _commit(stream, replicas, ["b", "y", "c"], while_written=False)
        end = stream.last + 2
        stream.write(end - 1, "c", end)
        assembler = Assembler.from_snapshot(stream.after(0, events=()), last)
        replicas.append(Replica(stream, assembler, loaded=False))
        replicas[-1].show(assembler.advance(last))
        stream.write(end, "d", end)
    for replica in replicas:
        if action == "step":
            replica.step()
        elif action == "restart":
            replica.restart()


def _commit(
    stream: Stream, replicas: list[Replica], keys: Sequence[str], *, while_written: bool
) -> None:
    end = stream.last + len(keys)
    for sequence, key in enumerate(keys, start=stream.last + 1):
        stream.write(sequence, key, end)
        if while_written:
            for replica in replicas:
                replica.step()


@settings(max_examples=200, deadline=None)
@given(STEPS, st.booleans())
def test_every_state_shown_was_there_between_two_commits(
    steps: list[tuple[str, object]], while_written: bool
) -> None:
    """Whatever is overwritten, expires or is not followed, and whenever consumers start anew."""
    stream = Stream()
    replicas = [Replica(stream, Assembler(0))]
    for action, argument in steps:
        if action == "commit":
            assert isinstance(argument, list)
            _commit(stream, replicas, argument, while_written=while_written)
        else:
            _run(stream, replicas, action, argument)

    for replica in replicas:
        for _ in range(len(stream.messages) + 1):
            replica.step()
        assert replica.assembler.applied == stream.last
        for key in set(FOLLOWED) - stream.expired:
            assert replica.state.get(key, 0) == stream.newest.get(key, 0), "lost"
