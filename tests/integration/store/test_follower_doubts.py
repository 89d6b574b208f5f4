"""What followers must not believe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from harness.clock import PutForwardClock
from harness.following import Follow
from harness.lossy import LossyConnection
from nats.aio.msg import Msg

from tidegate.kernel.clock import SystemClock
from tidegate.store.changes import CommitResult, Committed, Delete, Entry, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import Connection
from tidegate.store.follower import Follower
from tidegate.store.schema import load_migrations, migrate, migrations_folder
from tidegate.store.settings import Settings
from tidegate.store.views import Progress

Connect = Callable[[], Awaitable[Connection]]


def revision(result: CommitResult) -> int:
    assert isinstance(result, Committed), result
    return result.revision


async def test_a_heartbeat_from_before_a_long_sleep_does_not_say_that_all_is_there(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    """A machine was suspended with a heartbeat in the socket's buffer, and a tombstone expired."""
    clock = PutForwardClock()
    replica = await follow(store, clock=clock)
    made = revision(await iam.commit([Put("k.0", {}, 0)], []))
    assert await replica.progress.wait_for(made, 10)
    consumer = replica.follower._consumer
    assert consumer is not None
    for name in (await store.api("CONSUMER.NAMES.KV_iam"))["consumers"]:
        if name.startswith("follower-"):
            await store.api(f"CONSUMER.DELETE.KV_iam.{name}")
    tombstone = revision(await iam.commit([Delete("k.0", made)], []))
    await store.api("STREAM.MSG.DELETE.KV_iam", {"seq": tombstone})
    last = revision(await iam.commit([Put("k.1", {}, 0)], []))

    clock.ahead_s += 2 * 3600
    headers = {
        "Status": "100",
        "Nats-Last-Consumer": str(consumer._count),
        "Nats-Last-Stream": str(made),
    }
    await consumer._receive(Msg(store._client, "heartbeat", "", b"", headers))
    store.reconnected()
    assert await replica.progress.wait_for(last, 10)
    assert replica.state == {"k.1": {}}


class _Nothing:
    kinds = frozenset({"k"})

    def load(self, entries: Iterable[Entry]) -> None:
        pass

    def apply(self, changes: Sequence[Entry]) -> None:
        pass


class _ReplacesStream(LossyConnection):
    """Has the stream made anew right after the follower has asked how far it is."""

    replace: Callable[[], Awaitable[None]] | None = None

    async def api(
        self, subject: str, body: object = None, timeout_s: float | None = None
    ) -> dict[str, object]:
        answer = await super().api(subject, body, timeout_s)
        if subject.startswith("STREAM.INFO") and self.replace is not None:
            replace, self.replace = self.replace, None
            await replace()
        return answer


async def test_a_start_while_the_stream_is_made_anew_is_begun_again(
    store: Connection, iam: Committer, connect_again: Connect, store_settings: Settings
) -> None:
    for n in range(20):
        revision(await iam.commit([Put(f"k.{n}", {}, 0)], []))

    async def replace() -> None:
        await store.api("STREAM.DELETE.KV_iam")
        await migrate(store, store_settings, load_migrations(migrations_folder())[:1])

    connection = _ReplacesStream(await connect_again())
    connection.replace = replace
    clock = SystemClock()
    progress = Progress(clock)
    follower = Follower(connection, "iam", [_Nothing()], progress, clock)
    running = asyncio.create_task(follower.run(lambda: None))
    ready = await progress.wait_for(1, 10)
    running.cancel()
    await asyncio.wait({running})
    assert ready


async def test_waits_that_clients_chose_do_not_crowd_out_the_barrier(
    store: Connection, iam: Committer, follow: Follow
) -> None:
    """`x-tidegate-min-revision` takes any number, from anybody."""
    replica = await follow(store)
    far = 10**9
    waits = [asyncio.create_task(replica.progress.wait_for(far, 60)) for _ in range(10_000)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(replica.progress.wait_for(replica.progress.revision + 1, 10))
    await asyncio.sleep(0)
    revision(await iam.commit([Put("k.1", {}, 0)], []))
    reached = await waiting
    for each in waits:
        each.cancel()
    await asyncio.wait(waits)
    assert reached
