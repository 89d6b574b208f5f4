"""Migrations on a real server, and the streams that they make."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.js.errors import KeyNotFoundError

from tidegate.devstack.nats_server import NatsServer
from tidegate.kernel.ids import new_id
from tidegate.store import reading
from tidegate.store.changes import Committed, Conflict, Event, Put
from tidegate.store.commit import Committer
from tidegate.store.connection import ApiError, Connection
from tidegate.store.schema import (
    Context,
    Migration,
    SchemaError,
    check,
    load_migrations,
    migrate,
    migrations_folder,
    stored_version,
)
from tidegate.store.settings import Settings

Connect = Callable[[], Awaitable[Connection]]
MakeEvent = Callable[..., Event]
Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

MIGRATIONS = load_migrations(migrations_folder())
HOUR_NS = 3600 * 1_000_000_000
BUCKET = {
    "storage": "file",
    "num_replicas": 1,
    "retention": "limits",
    "discard": "new",
    "max_msgs_per_subject": 1,
    "max_age": 0,
    "allow_direct": True,
    "allow_atomic": True,
    "allow_msg_ttl": True,
    "allow_rollup_hdrs": False,
    "deny_purge": True,
    "deny_delete": False,
}
STREAMS: dict[str, dict[str, Any]] = {
    "KV_iam": BUCKET | {"subjects": ["$KV.iam.>", "tg.iam.event.>", "tg.iam.mail.>"]},
    "KV_routing": BUCKET | {"subjects": ["$KV.routing.>", "tg.routing.event.>"]},
    "AUDIT": {
        "storage": "file",
        "num_replicas": 1,
        "retention": "limits",
        "max_age": 365 * 24 * HOUR_NS,
        "max_msgs_per_subject": -1,
        "allow_msg_ttl": False,
        "allow_rollup_hdrs": False,
        "deny_delete": True,
        "deny_purge": True,
    },
    "MAIL": {
        "storage": "file",
        "num_replicas": 1,
        "retention": "workqueue",
        "max_age": 48 * HOUR_NS,
    },
    "LIMITS": {
        "subjects": ["tg.limit.>"],
        "storage": "file",
        "allow_msg_counter": True,
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "max_age": HOUR_NS,
    },
    "QUOTA": {
        "subjects": ["tg.quota.>"],
        "storage": "file",
        "allow_msg_counter": True,
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "max_age": 72 * HOUR_NS,
    },
}


async def messages(connection: Connection, stream: str) -> int:
    info = await connection.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["messages"])


async def last_message(connection: Connection, stream: str, subject: str) -> dict[str, Any]:
    answer = await connection.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    message: dict[str, Any] = answer["message"]
    return message


# --- streams ---


async def test_the_streams_are_as_specified(store: Connection) -> None:
    made: dict[str, dict[str, Any]] = {}
    for stream in (await store.api("STREAM.NAMES"))["streams"]:
        config = (await store.api(f"STREAM.INFO.{stream}"))["config"]
        made[stream] = {name: config.get(name) for name in STREAMS[stream]}
    assert made == STREAMS


async def test_a_bucket_is_an_ordinary_kv_bucket_to_any_tool(
    nats_server: NatsServer, iam: Committer, store: Connection
) -> None:
    await iam.commit([Put("user.1", {"v": 1}, 0)], [])
    client = await nats.connect(nats_server.url)
    bucket = await client.jetstream().key_value("iam")

    assert (await bucket.get("user.1")).value == b'{"v":1}'
    revision = await bucket.put("user.2", b'{"v":2}')
    assert (await reading.read(store, "iam", "user.2")).revision == revision
    assert "user.2" in await bucket.keys()
    await bucket.delete("user.2")
    with pytest.raises(KeyNotFoundError):
        await bucket.get("user.2")
    assert (await reading.read(store, "iam", "user.2")).value is None
    await client.close()


async def test_nobody_wipes_a_bucket_with_a_roll_up(store: Connection, iam: Committer) -> None:
    await iam.commit([Put("user.1", {"v": 1}, 0)], [])
    before = await messages(store, "KV_iam")
    for header in ("all", "sub"):
        answer = await store.request("$KV.iam.user.2", b"{}", {"Nats-Rollup": header})
        assert b"error" in answer.data
    assert await messages(store, "KV_iam") == before


async def test_nobody_purges_what_must_stay(store: Connection) -> None:
    for stream in ("KV_iam", "KV_routing", "AUDIT"):
        with pytest.raises(ApiError, match="purge"):
            await store.api(f"STREAM.PURGE.{stream}", {})


async def test_audit_keeps_events_without_their_commit_id_and_beyond_their_ttl(
    store: Connection, iam: Committer, event: MakeEvent, eventually: Eventually
) -> None:
    bucket_before = await messages(store, "KV_iam")
    await iam.commit([Put("k.1", {"v": 1}, 0)], [event("made", b'{"a":1}', ttl_s=1)])

    async def arrived_and_expired() -> bool:
        audit, bucket = await messages(store, "AUDIT"), await messages(store, "KV_iam")
        return audit == 1 and bucket == bucket_before + 1

    await eventually(arrived_and_expired)
    kept = await last_message(store, "AUDIT", "tg.iam.event._.k.1.made.me")
    assert kept["data"] == "eyJhIjoxfQ=="


async def test_audit_keeps_every_event_of_one_subject_from_both_buckets(
    store: Connection, iam: Committer, event: MakeEvent, eventually: Eventually
) -> None:
    routing = Committer(store, "routing", deadline_s=5)
    for n in range(3):
        await iam.commit([Put(f"k.{n}", {}, 0)], [event()])
        await routing.commit([Put(f"k.{n}", {}, 0)], [event()])

    async def all_arrived() -> bool:
        return await messages(store, "AUDIT") == 6

    await eventually(all_arrived)


async def test_nobody_deletes_from_audit(
    store: Connection, iam: Committer, event: MakeEvent, eventually: Eventually
) -> None:
    await iam.commit([], [event()])

    async def arrived() -> bool:
        return await messages(store, "AUDIT") == 1

    await eventually(arrived)
    with pytest.raises(ApiError, match="delete"):
        await store.api("STREAM.MSG.DELETE.AUDIT", {"seq": 1})
    assert await messages(store, "AUDIT") == 1


async def test_mail_is_a_work_queue(
    nats_server: NatsServer, store: Connection, iam: Committer, eventually: Eventually
) -> None:
    await iam.commit([Put("k.1", {}, 0)], [Event("mail", (new_id(),), b"sealed", 600)])
    client = await nats.connect(nats_server.url)
    queue = await client.jetstream().pull_subscribe("tg.iam.mail.>", "sender", stream="MAIL")
    [mail] = await queue.fetch(1, timeout=10)
    assert mail.data == b"sealed"
    await mail.ack_sync()

    async def gone() -> bool:
        return await messages(store, "MAIL") == 0

    await eventually(gone)
    assert await messages(store, "AUDIT") == 0
    await client.close()


# --- migrating ---


async def test_migrations_run_once(empty: Connection, store_settings: Settings) -> None:
    assert await stored_version(empty) == 0
    assert await migrate(empty, store_settings, MIGRATIONS) == list(MIGRATIONS)
    assert await stored_version(empty) == len(MIGRATIONS)
    before = (await reading.read_leader(empty, "iam", "schema.version")).revision

    assert await migrate(empty, store_settings, MIGRATIONS) == []
    assert (await reading.read_leader(empty, "iam", "schema.version")).revision == before
    await check(empty, MIGRATIONS)


async def test_two_migrating_at_once_run_each_migration_once(
    connect_again: Connect, store_settings: Settings
) -> None:
    connections = [await connect_again() for _ in range(2)]
    ran = await asyncio.gather(
        *(migrate(connection, store_settings, MIGRATIONS) for connection in connections)
    )
    assert sorted(len(each) for each in ran) == [0, len(MIGRATIONS)]
    recorded = (await reading.read_leader(connections[0], "iam", "schema.version")).value
    assert recorded is not None
    assert [each["name"] for each in recorded["applied"]] == [each.name for each in MIGRATIONS]


async def test_a_migration_that_died_half_way_is_run_again(
    empty: Connection, store_settings: Settings
) -> None:
    tries = 0

    async def dies_once(context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("died")

    migrations = (MIGRATIONS[0], Migration(2, "fragile", dies_once))
    with pytest.raises(RuntimeError, match="died"):
        await migrate(empty, store_settings, migrations)
    assert await stored_version(empty) == 1
    assert [each.number for each in await migrate(empty, store_settings, migrations)] == [2]


async def test_streams_half_made_are_completed(empty: Connection, store_settings: Settings) -> None:
    await migrate(empty, store_settings, MIGRATIONS)
    config = (await empty.api("STREAM.INFO.KV_iam"))["config"]
    await empty.api("STREAM.DELETE.KV_iam")
    await empty.api("STREAM.DELETE.MAIL")
    await empty.api("STREAM.CREATE.KV_iam", config)

    await migrate(empty, store_settings, MIGRATIONS)
    await check(empty, MIGRATIONS)


async def test_whoever_lost_the_lock_records_nothing(
    connect_again: Connect, store: Connection, store_settings: Settings
) -> None:
    """As after a pause longer than the lock lives: another went on meanwhile."""
    applied: list[str] = []

    async def quick(_: Context) -> None:
        applied.append("quick")

    async def overtaken(context: Context) -> None:
        lock = await reading.read_leader(store, "iam", "schema.lock")
        expired = {"v": 1, "holder": "nobody", "exp": 0}
        taken = await context.iam.commit([Put("schema.lock", expired, lock.revision)], [])
        assert isinstance(taken, Committed)
        other = await connect_again()
        third = Migration(3, "third", quick)
        await migrate(other, store_settings, (MIGRATIONS[0], Migration(2, "second", quick), third))

    with pytest.raises(SchemaError, match="recording migration 0002 failed"):
        await migrate(store, store_settings, (MIGRATIONS[0], Migration(2, "second", overtaken)))
    assert applied == ["quick", "quick"]
    assert await stored_version(store) == 3


async def test_the_lock_is_given_back(store: Connection, iam: Committer) -> None:
    assert (await reading.read_leader(store, "iam", "schema.lock")).value is None
    taken = await iam.commit([Put("schema.lock", {"v": 1}, 0)], [])
    assert isinstance(taken, Committed)
    again = await iam.commit([Put("schema.lock", {"v": 1}, 0)], [])
    assert isinstance(again, Conflict)


# --- refusing ---


async def test_a_server_without_state_is_refused_and_stays_empty(empty: Connection) -> None:
    with pytest.raises(SchemaError, match="holds no tidegate state") as caught:
        await check(empty, MIGRATIONS)
    assert "tidegate migrate" in str(caught.value)
    assert "encryption key" in str(caught.value)
    assert (await empty.api("STREAM.NAMES"))["streams"] is None


async def test_an_older_schema_is_refused(store: Connection) -> None:
    more = (*MIGRATIONS[:1], Migration(2, "more", MIGRATIONS[0].apply))
    with pytest.raises(SchemaError, match="has version 1, this program needs 2: run `tidegate m"):
        await check(store, more)


async def test_a_newer_schema_is_refused(
    store: Connection, iam: Committer, store_settings: Settings
) -> None:
    version = await reading.read_leader(store, "iam", "schema.version")
    value = {"v": 1, "version": 9, "applied": []}
    await iam.commit([Put("schema.version", value, version.revision)], [])
    with pytest.raises(SchemaError, match="has version 9, this program knows 1: it is too old"):
        await check(store, MIGRATIONS[:1])
    with pytest.raises(SchemaError, match="has version 9: this program is too old"):
        await migrate(store, store_settings, MIGRATIONS[:1])


async def test_a_missing_stream_is_refused_by_its_name(store: Connection) -> None:
    for stream in set(STREAMS) - {"KV_iam"}:
        config = (await store.api(f"STREAM.INFO.{stream}"))["config"]
        await store.api(f"STREAM.DELETE.{stream}")
        with pytest.raises(SchemaError, match=f"the stream {stream} is missing"):
            await check(store, MIGRATIONS[:1])
        await store.api(f"STREAM.CREATE.{stream}", config)
    await check(store, MIGRATIONS[:1])
