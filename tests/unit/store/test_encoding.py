"""What a commit is written as, and what is refused before anything is sent."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from tidegate.store.changes import Change, Delete, Event, Guard, Put
from tidegate.store.encoding import TOMBSTONE_TTL_S, Marker, check, encode

EVENT = Event("event", ("_", "user", "u1", "disabled", "admin"), b"{}", 60)
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"


OTHER = replace(EVENT, tokens=("_", "user", "u2", "disabled", "admin"))
THIRD = replace(EVENT, tokens=("_", "user", "u3", "disabled", "admin"))


@pytest.mark.parametrize(
    ("changes", "events", "problem"),
    [
        ([], [], "1 to 1000 messages, not 0"),
        ([Put(f"k.{n}", {}, 0) for n in range(1001)], [], "1 to 1000 messages, not 1001"),
        ([Put(f"k.{n}", {}, 0) for n in range(1000)], [EVENT], "1 to 1000 messages, not 1001"),
        (
            [],
            [replace(EVENT, tokens=(str(n),)) for n in range(1001)],
            "1 to 1000 messages, not 1001",
        ),
        ([Put("k.1", {}, 0), Put("k.1", {}, 0)], [], "each key once"),
        ([Put("k.1", {}, 0), Delete("k.1", 4)], [], "each key once"),
        ([Put("k.1", {}, 0), Guard("k.1", 4)], [EVENT], "each key once"),
        ([Guard("k.1", 4)], [], "needs an event"),
        ([Guard("k.1", 4)], [EVENT], "one event more"),
        ([Put("k.1", {}, 0)], [EVENT, EVENT], "the same subject"),
        ([Put("k.1", {}, 0), Guard("k.2", 4)], [], "needs an event"),
        ([Guard("k.1", 4), Guard("k.2", 4)], [EVENT], "needs an event"),
    ],
)
def test_a_commit_that_can_never_be_written_is_refused_before_anything_is_sent(
    changes: list[Change], events: list[Event], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        check(changes, events)


def test_every_message_expects_what_writing_it_makes_untrue() -> None:
    changes: list[Change] = [
        Put("user.1", {"v": 1}, 7),
        Put("token.2", {"v": 1}, 0, ttl_s=90),
        Delete("a.3", 9),
    ]
    messages = encode("iam", changes, [EVENT], "c0")

    assert [message.subject for message in messages] == [
        "$KV.iam.user.1",
        "$KV.iam.token.2",
        "$KV.iam.a.3",
        "tg.iam.event._.user.u1.disabled.admin.c0",
    ]
    assert [message.headers.get(EXPECTED) for message in messages] == ["7", "0", "9", "0"]
    assert [message.headers.get("Nats-TTL") for message in messages] == [
        None,
        f"{90 + TOMBSTONE_TTL_S}s",
        f"{TOMBSTONE_TTL_S}s",
        "60s",
    ]
    assert [message.headers.get("KV-Operation") for message in messages] == [
        None,
        None,
        "DEL",
        None,
    ]
    assert [orjson.loads(message.payload or b"null") for message in messages] == [
        {"v": 1},
        {"v": 1},
        None,
        {},
    ]


def test_every_message_says_its_commit_its_place_and_the_size() -> None:
    changes: list[Change] = [Guard("g.1", 3), Put("k.1", {}, 0), Put("k.2", {}, 0)]
    messages = encode("iam", changes, [EVENT, OTHER], "c0")
    markers = [message.headers["Tidegate-Commit"] for message in messages]
    assert markers == ["c0:1:4", "c0:2:4", "c0:3:4", "c0:4:4"]


def test_each_guard_rides_on_an_event_of_its_own() -> None:
    changes: list[Change] = [Guard("role.1", 3), Put("k.1", {}, 0), Guard("tenant.a", 8)]
    messages = encode("iam", changes, [EVENT, OTHER, THIRD], "c0")
    guards = {
        message.headers[EXPECTED_SUBJECT]: message.headers[EXPECTED]
        for message in messages
        if EXPECTED_SUBJECT in message.headers
    }
    assert guards == {"$KV.iam.role.1": "3", "$KV.iam.tenant.a": "8"}
    assert EXPECTED_SUBJECT not in messages[0].headers


@pytest.mark.parametrize(
    ("header", "end"),
    [
        ("id:1:3", 12),
        ("id:3:3", 10),
        ("id:1:1", 10),
    ],
)
def test_a_marker_says_where_its_commit_ends(header: str, end: int) -> None:
    marker = Marker.parse(header)
    assert marker is not None
    assert marker.end(10) == end
    assert str(marker) == header


@pytest.mark.parametrize(
    "header", [None, "", "id", "id:1:3:4", "id:one:3", "id:9:3", "id:0:3", "id:1:1001"]
)
def test_what_other_tools_write_has_no_marker(header: str | None) -> None:
    assert Marker.parse(header) is None
