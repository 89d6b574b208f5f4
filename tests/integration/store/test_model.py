"""The store against a dictionary: commits, lost answers, crashes, and what followers show of it.

One machine drives one bucket of a real server. It knows after each step what the stream must
hold, and so judges both what commits answer and what followers show.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness.following import Follow, Replica, State, following
from harness.lossy import Fate, LossyConnection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tidegate.devstack.nats_server import NatsServer
from tidegate.store import reading
from tidegate.store.changes import (
    Busy,
    Change,
    CommitResult,
    Committed,
    Conflict,
    Delete,
    Entry,
    Event,
    Guard,
    Put,
    Unavailable,
    Unknown,
)
from tidegate.store.commit import Committer
from tidegate.store.connection import ApiError, Connection, StoreError, connect
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings

T = TypeVar("T")

# Kind `k` is followed, `j` is not: commits of both have members that no follower gets.
KEYS = ("k.1", "k.2", "k.3", "j.1", "j.2")
_FOLLOWED = "k"
_CRASHES = 2
_PATIENT_S = 30.0
_IMPATIENT_S = 0.15

# What a step does to a key. "stale" changes expect a revision that is not the present one.
ACTIONS = ("put", "put", "delete", "create", "guard", "stale put", "stale delete")
COMMITS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ACTIONS), min_size=1, max_size=4)
FATES = st.lists(st.sampled_from(list(Fate)), max_size=4)


class Server:
    """One server for all examples, and the loop that everything runs in."""

    def __init__(self, runner: asyncio.Runner, folder: Path) -> None:
        self.runner = runner
        self.nats = NatsServer(folder)
        self.numbers = itertools.count(1)

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    async def start(self) -> None:
        await self.nats.start()
        async with connect(self.settings, "test") as connection:
            await migrate(connection, self.settings, load_migrations(migrations_folder())[:1])

    @property
    def settings(self) -> Settings:
        return Settings(servers=(self.nats.url,), replicas=1, request_timeout_s=5)


class Model:
    """What the stream holds, and every state that it had after a whole commit."""

    def __init__(self) -> None:
        self.entries = {key: Entry(key, None, 0) for key in KEYS}
        self.last = 0
        self.history: list[State] = [{}]

    def fits(self, changes: Sequence[Change]) -> bool:
        """Whether all the changes expect what is there. "Absent" also stands for a tombstone."""
        for change in changes:
            entry = self.entries[change.key]
            absent = entry.value is None and change.expected == 0
            may_be_absent = absent and not isinstance(change, Delete)
            if entry.revision != change.expected and not may_be_absent:
                return False
        return True

    def apply(self, changes: Sequence[Change], events: Sequence[Event]) -> int:
        """Writes all of it; returns the last sequence."""
        for change in changes:
            if isinstance(change, Guard):
                continue
            self.last += 1
            value = change.value if isinstance(change, Put) else None
            self.entries[change.key] = Entry(change.key, value, self.last)
        self.last += len(events)
        self.history.append(self.followed())
        return self.last

    def followed(self) -> State:
        return {
            key: entry.value
            for key, entry in self.entries.items()
            if entry.kind == _FOLLOWED and entry.value is not None
        }


class StoreMachine(RuleBasedStateMachine):
    """Steps of one bucket's life. Each ends with the model as new as the stream."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.model = Model()
        self.values = itertools.count(1)
        self.crashes = 0
        # Not known to be written, and perhaps still on their way.
        self.pending: list[tuple[list[Change], list[Event]]] = []
        self.shown: list[State] = []
        self.bucket = f"model{next(server.numbers)}"
        self.stack = AsyncExitStack()

    # --- putting it up and taking it down ---

    @initialize()
    def open(self) -> None:
        self.server.run(self._open())

    async def _open(self) -> None:
        enter = self.stack.enter_async_context
        plain = await enter(connect(self.server.settings, "test"))
        await _create_bucket(plain, self.bucket)
        self.plain: Connection = plain
        self.lossy = LossyConnection(plain)
        # Crashes are met by a committer that waits for them to pass.
        self.committer = Committer(self.lossy, self.bucket, _PATIENT_S)
        self.impatient = Committer(self.lossy, self.bucket, _IMPATIENT_S)
        # The feed has a connection of its own, as another replica has.
        self.others: Connection = await enter(connect(self.server.settings, "test"))
        self.follow: Follow = await enter(following())
        self.watching = await self._start_follower(self.shown)

    async def _start_follower(self, shown: list[State]) -> Replica:
        return await self.follow(
            self.others,
            _FOLLOWED,
            bucket=self.bucket,
            look=lambda state: shown.append(dict(state)),
        )

    def teardown(self) -> None:
        self.server.run(self._close())

    async def _close(self) -> None:
        async with self.stack:
            if not hasattr(self, "watching"):
                return
            await self._learn_of_late_ones()
            shown: list[State] = []
            fresh = await self._start_follower(shown)
            for follower in (self.watching, fresh):
                assert await follower.progress.wait_for(self.model.last, _PATIENT_S), "stuck"
                assert follower.state == self.model.followed()
            assert shown == [self.model.followed()]
            self._check_shown()
            for key, entry in self.model.entries.items():
                assert await reading.read_leader(self.plain, self.bucket, key) == entry
            await self.plain.api(f"STREAM.DELETE.KV_{self.bucket}")

    def _check_shown(self) -> None:
        """Each state shown was there after a whole commit, and none before an older one."""
        history = iter(self.model.history)
        current: State | None = None
        for state in self.shown:
            # Several commits may come to the same; the first of them will do.
            while current != state:
                current = next(history, None)
                assert current is not None, f"never was, or went backwards: {state}"

    # --- commits ---

    def _changes(self, actions: dict[str, str]) -> list[Change]:
        value = {"v": 1, "n": next(self.values)}
        changes: list[Change] = []
        for key, action in actions.items():
            revision = self.model.entries[key].revision
            stale = revision + 1 if revision == 0 else revision - 1
            change: dict[str, Change] = {
                "put": Put(key, value, revision),
                "create": Put(key, value, 0),
                "delete": Delete(key, revision),
                "guard": Guard(key, revision),
                "stale put": Put(key, value, stale),
                "stale delete": Delete(key, stale),
            }
            changes.append(change[action])
        return changes

    def _events(self, changes: Sequence[Change], wanted: int) -> list[Event]:
        """As many as wanted, and what guards need to ride on."""
        guards = sum(isinstance(change, Guard) for change in changes)
        count = max(wanted, guards)
        if guards and guards == len(changes) - guards + count:
            count += 1
        return [
            Event("event", ("_", "k", str(n), "did", "me"), b"%d" % next(self.values), 3600)
            for n in range(count)
        ]

    @rule(actions=COMMITS, events=st.integers(0, 2), fates=FATES)
    def commit(self, actions: dict[str, str], events: int, fates: list[Fate]) -> None:
        """One commit; some sendings of it, or answers, are lost."""
        self.server.run(self._commit(self._changes(actions), events, fates, self.committer))

    @rule(
        actions=COMMITS,
        events=st.integers(0, 1),
        fate=st.sampled_from([Fate.LOST, Fate.LAST_LOST, Fate.LATE, Fate.ANSWER_LOST]),
    )
    def commit_that_is_never_answered(
        self, actions: dict[str, str], events: int, fate: Fate
    ) -> None:
        fates = [fate] * 1000
        changes = self._changes(actions)
        result = self.server.run(self._commit(changes, events, fates, self.impatient))
        assert result == Unknown()

    async def _commit(
        self, changes: list[Change], wanted: int, fates: list[Fate], committer: Committer
    ) -> CommitResult:
        events = self._events(changes, wanted)
        self.lossy.fates.clear()
        self.lossy.fates.extend(fates)
        fits = self.model.fits(changes)
        result = await committer.commit(changes, events)
        self.lossy.fates.clear()
        await self._judge(result, fits, changes, events)
        return result

    async def _judge(
        self,
        result: CommitResult,
        fits: bool,
        changes: list[Change],
        events: list[Event],
        *,
        crashed: bool = False,
    ) -> None:
        """Whether what is there is what the answer says."""
        last = await self._last_sequence()
        match result:
            case Committed(revision=revision):
                assert fits, "it expected what was not there"
                assert self.model.apply(changes, events) == revision
            case Conflict(key="") if crashed:
                # While the server is away it cannot be asked which of the keys it is, nor whether
                # what a create met is a tombstone.
                pass
            case Conflict(key=key, actual=actual):
                assert not fits
                assert key in {change.key for change in changes}
                assert actual == self.model.entries[key].revision
            case Busy() | Unavailable():
                pass
            case Unknown():
                if last > self.model.last:
                    assert fits
                    self.model.apply(changes, events)
                else:
                    self.pending.append((changes, events))
        assert last == self.model.last, "something else is there than what was answered"
        await self._check_entries()

    async def _check_entries(self) -> None:
        for key, entry in self.model.entries.items():
            assert await reading.read_leader(self.plain, self.bucket, key) == entry

    @rule()
    def late_sendings_arrive(self) -> None:
        self.server.run(self._learn_of_late_ones())

    async def _learn_of_late_ones(self) -> None:
        """What was told to be unknown may be written yet, whole; all else may not be."""
        while await self.lossy.deliver_next_late():
            last = await self._last_sequence()
            if last > self.model.last:
                written = [each for each in self.pending if await self._is_there(*each)]
                # Two that delete the same come to the same.
                changes, events = written[0]
                self.pending.remove((changes, events))
                assert self.model.fits(changes)
                self.model.apply(changes, events)
            assert last == self.model.last
        await self._check_entries()

    async def _is_there(self, changes: Sequence[Change], events: Sequence[Event]) -> bool:
        """Whether this is the commit that was written last; values are used once."""
        stored = await self.plain.api(f"STREAM.MSG.GET.KV_{self.bucket}", {"last_by_subj": ">"})
        if events:
            return base64.b64decode(stored["message"].get("data", "")) == events[-1].value
        written = [change for change in changes if not isinstance(change, Guard)]
        entry = await reading.read_leader(self.plain, self.bucket, written[-1].key)
        value = written[-1].value if isinstance(written[-1], Put) else None
        return entry.revision == stored["message"]["seq"] and entry.value == value

    @rule(key=st.sampled_from(KEYS), events=st.integers(0, 1), fates=FATES)
    def race(self, key: str, events: int, fates: list[Fate]) -> None:
        """Four change the same entry; one of them wins, and one at most is answered so."""
        self.server.run(self._race(key, events, fates))

    async def _race(self, key: str, wanted: int, fates: list[Fate]) -> None:
        revision = self.model.entries[key].revision
        self.lossy.fates.extend(fates)
        puts: list[list[Change]] = [
            [Put(key, {"v": 1, "n": next(self.values)}, revision)] for _ in range(4)
        ]
        events = [self._events(put, wanted) for put in puts]
        results = await asyncio.gather(
            *(self.committer.commit(*each) for each in zip(puts, events, strict=True))
        )
        self.lossy.fates.clear()
        [winner] = [n for n in range(len(puts)) if await self._is_there(puts[n], events[n])]
        self.model.apply(puts[winner], events[winner])
        assert await self._last_sequence() == self.model.last
        for n, result in enumerate(results):
            if n == winner:
                assert result in {Committed(self.model.last), Unknown()}
            else:
                assert result in {Conflict(key, self.model.entries[key].revision), Unknown()}
                if result == Unknown():
                    self.pending.append((puts[n], events[n]))

    # --- faults ---

    @precondition(lambda self: self.crashes < _CRASHES)
    @rule(actions=COMMITS, events=st.integers(0, 2), turns=st.integers(0, 6))
    def crash_amid_a_commit(self, actions: dict[str, str], events: int, turns: int) -> None:
        """The server is killed so many turns of the loop after the commit began."""
        self.crashes += 1
        self.server.run(self._crash_amid(self._changes(actions), events, turns))

    async def _crash_amid(self, changes: list[Change], wanted: int, turns: int) -> None:
        events = self._events(changes, wanted)
        fits = self.model.fits(changes)
        commit = asyncio.create_task(self.committer.commit(changes, events))
        for _ in range(turns):
            await asyncio.sleep(0)
        self.server.nats.kill()
        await self.server.nats.restart()
        result = await commit
        async with asyncio.timeout(_PATIENT_S):
            await self._wait_reachable()
        await self._judge(result, fits, changes, events, crashed=True)

    async def _wait_reachable(self) -> None:
        while True:
            try:
                await self._last_sequence()
            except StoreError:
                await asyncio.sleep(0.02)
            else:
                return

    @rule()
    def lose_the_consumer(self) -> None:
        self.server.run(self._lose_the_consumer())

    async def _lose_the_consumer(self) -> None:
        """As a server's memory might, without telling who listens; found out by a reconnect."""
        for name in (await self.plain.api(f"CONSUMER.NAMES.KV_{self.bucket}"))["consumers"] or []:
            with suppress(ApiError):  # its follower was faster, and has another
                await self.plain.api(f"CONSUMER.DELETE.KV_{self.bucket}.{name}")
        self.others.reconnected()

    @rule()
    def let_the_follower_catch_up(self) -> None:
        self.server.run(self._catch_up())

    async def _catch_up(self) -> None:
        assert await self.watching.progress.wait_for(self.model.last, _PATIENT_S), "stuck"
        assert self.watching.state == self.model.followed()

    async def _last_sequence(self) -> int:
        info = await self.plain.api(f"STREAM.INFO.KV_{self.bucket}")
        return int(info["state"]["last_seq"])


async def _create_bucket(connection: Connection, name: str) -> None:
    """Made like bucket `iam`, whose migration is the one that counts."""
    config = (await connection.api("STREAM.INFO.KV_iam"))["config"]
    config |= {"name": f"KV_{name}", "subjects": [f"$KV.{name}.>", f"tg.{name}.event.>"]}
    await connection.api(f"STREAM.CREATE.KV_{name}", config)


def _run(folder: Path, examples: int, steps: int) -> None:
    with asyncio.Runner() as runner:
        server = Server(runner, folder)
        server.run(server.start())
        try:
            run_state_machine_as_test(
                partial(StoreMachine, server),  # type: ignore[arg-type]  # all that makes one will do
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                    # A server is not the same twice: what failed once cannot be made smaller.
                    phases=[Phase.generate],
                    report_multiple_bugs=False,
                ),
            )
        finally:
            server.run(server.nats.stop())


def test_the_store_is_like_a_dictionary_whatever_is_lost(tmp_path: Path) -> None:
    _run(tmp_path / "nats", examples=6, steps=30)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_store_is_like_a_dictionary_whatever_is_lost_for_long(tmp_path: Path) -> None:
    _run(tmp_path / "nats", examples=100, steps=80)
