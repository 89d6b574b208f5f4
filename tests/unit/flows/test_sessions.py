"""Refresh when what is read is old: a copy of the stream that is behind ends no session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from harness.memory import GivenBarrier, GivenLease, MemoryStream, SetClock

from tidegate.flows.sessions import Sessions
from tidegate.flows.signin import TokenIssuer
from tidegate.identity.accounts import Keys
from tidegate.identity.model import user_key
from tidegate.kernel import errors
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import Code, Refusal
from tidegate.kernel.ids import PrincipalId, SessionId, new_id
from tidegate.kernel.secret import Secret
from tidegate.principals.settings import Settings as PrincipalSettings
from tidegate.principals.view import Principals
from tidegate.sessions import keys, refresh
from tidegate.sessions.keys import KeyState, SigningKeyView
from tidegate.sessions.refresh import RefreshToken, Session
from tidegate.sessions.settings import Settings
from tidegate.store import reading
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Bucket, Done
from tidegate.store.changes import Change, CommitResult, Committed, Entry, Event
from tidegate.store.connection import Disconnected
from tidegate.store.events import Origin
from tidegate.store.keyring import KeyRing, Peppers, Wrapping, digest
from tidegate.store.views import Progress

ORIGIN = Origin("req", "192.0.2.1", "agent")
SECRET = Secret(b"s" * 32)
TOKEN = RefreshToken(PrincipalId(new_id()), SessionId(new_id()), 4, SECRET)
KEYS = Keys(
    Wrapping(KeyRing("w", {"w": Secret(b"w" * 32)})),
    Peppers(KeyRing("p", {"p": Secret(b"p" * 32)})),
)


class TwoCopies(Bucket):
    """A bucket with one entry, of which the nearest copy may be older than the leader's."""

    def __init__(self, nearest: Entry, leader: Entry) -> None:
        unused: Any = None
        self.barrier = GivenBarrier()
        super().__init__(unused, "iam", Progress(SystemClock()), 1, self.barrier)
        self.nearest = nearest
        self.leader = leader
        self.committed: list[Change] = []

    async def read(self, key: str) -> Entry:
        assert key == self.leader.key
        return self.nearest

    async def read_leader(self, key: str) -> Entry:
        assert key == self.leader.key
        return self.leader

    async def commit(self, changes: Sequence[Change], events: Sequence[Event]) -> CommitResult:
        self.committed += changes
        self.progress.restarted(99)
        return Committed(99)


def entry(counter: int, revision: int, secret: Secret = SECRET) -> Entry:
    now_s = SystemClock().now_s()
    session = Session(
        principal_id=TOKEN.principal_id,
        id=TOKEN.session_id,
        session_epoch=0,
        counter=counter,
        secret_hash=digest(secret),
        created_at_s=now_s - 60,
        rotated_at_s=now_s - 60,
        expires_at_s=now_s + 600,
        amr=("pwd",),
        acr="1",
        device_name="",
        address="",
    )
    key = refresh.session_key(session.principal_id, session.id)
    return Entry(key, refresh.encode(session), revision)


def absent(revision: int) -> Entry:
    return Entry(refresh.session_key(TOKEN.principal_id, TOKEN.session_id), None, revision)


@dataclass
class Replica:
    """A replica that knows the user of the token, and may decide."""

    monkeypatch: pytest.MonkeyPatch
    standing: dict[str, Any] | None = field(
        default_factory=lambda: {"status": "active", "session_epoch": 0}
    )

    def __post_init__(self) -> None:
        clock = SetClock()
        progress = Progress(clock)
        stream = MemoryStream(progress)
        self.monkeypatch.setattr(reading, "snapshot", stream.snapshot)
        self.lease = GivenLease(clock)
        stream.put(self.lease.key, {})
        stream.put(user_key(TOKEN.principal_id), self.standing)
        unused: Any = None
        settings = PrincipalSettings()
        self.principals = Principals(unused, progress, lambda: self.lease.key, settings)

    async def use(self, bucket: TwoCopies) -> Done[Any] | Refusal:
        signing = SigningKeyView(KEYS.wrapping)
        key = keys.encode(keys.generate(KeyState.ACTIVE), KEYS.wrapping, 0)
        signing.apply([Entry(keys.ENTRY_KEY, {"keys": [key]}, 1)])
        issuer = TokenIssuer(KEYS, signing, Settings(), SystemClock())
        sessions = Sessions(bucket, self.principals, self.lease, issuer, SystemClock())
        return await sessions.refresh(TOKEN.encode(KEYS.peppers).reveal_text(), ORIGIN)


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    return Replica(monkeypatch)


@pytest.mark.parametrize(
    "nearest", [absent(0), entry(3, 5, Secret(b"o" * 32)), entry(0, 2)], ids=["new", "one", "many"]
)
async def test_a_copy_that_is_behind_does_not_void_the_current_token(
    nearest: Entry, replica: Replica
) -> None:
    bucket = TwoCopies(nearest, entry(4, 6))
    assert isinstance(await replica.use(bucket), Done)
    (change,) = bucket.committed
    assert (change.key, change.expected) == (bucket.leader.key, 6)


@pytest.mark.parametrize(
    ("leader", "code"),
    [
        (absent(7), errors.REFRESH_INVALID),
        (entry(3, 5), errors.VIEW_BEHIND),
    ],
)
async def test_what_the_leader_says_too_is_final(
    leader: Entry, code: Code, replica: Replica
) -> None:
    bucket = TwoCopies(leader, leader)
    refusal = await replica.use(bucket)
    assert isinstance(refusal, Refusal)
    assert refusal.code is code
    assert not bucket.committed


async def test_reuse_is_decided_on_any_copy_for_the_commit_will_tell(replica: Replica) -> None:
    bucket = TwoCopies(entry(6, 8), entry(6, 8))
    refusal = await replica.use(bucket)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.REFRESH_INVALID
    assert [type(change).__name__ for change in bucket.committed] == ["Delete", "Put"]
    assert bucket.committed[0].expected == 8


async def test_the_other_replicas_have_the_end_of_a_reused_session_when_it_is_told(
    replica: Replica,
) -> None:
    bucket = TwoCopies(entry(6, 8), entry(6, 8))
    await replica.use(bucket)
    assert bucket.barrier.asked == [
        ("iam", 99, Effect.UNSEEN),
        ("iam", 99, Effect.ADDITION),
    ]


async def test_a_rotation_waits_for_nobody(replica: Replica) -> None:
    bucket = TwoCopies(entry(4, 6), entry(4, 6))
    assert isinstance(await replica.use(bucket), Done)
    assert bucket.barrier.asked == [("iam", 99, Effect.UNSEEN)]


@pytest.mark.parametrize(
    "standing",
    [
        {"status": "disabled", "session_epoch": 0},
        {"status": "active", "session_epoch": 1},
        {"status": "active"},
        None,
    ],
    ids=str,
)
async def test_who_may_not_act_refreshes_nothing(
    standing: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = TwoCopies(entry(4, 6), entry(4, 6))
    refusal = await Replica(monkeypatch, standing).use(bucket)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.REFRESH_INVALID
    assert not bucket.committed


async def test_outside_its_lease_a_replica_refreshes_nothing(replica: Replica) -> None:
    bucket = TwoCopies(entry(4, 6), entry(4, 6))
    replica.lease.give(0)
    refusal = await replica.use(bucket)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.REPLICA_FENCED
    assert not bucket.committed
    replica.lease.give(1)
    assert isinstance(await replica.use(bucket), Done)


async def test_a_user_that_cannot_be_read_now_keeps_the_refresh_token(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Disconnected("gone")

    monkeypatch.setattr(reading, "snapshot", fail)
    bucket = TwoCopies(entry(4, 6), entry(4, 6))
    refusal = await replica.use(bucket)
    assert isinstance(refusal, Refusal)
    assert refusal.code is errors.UNAVAILABLE
    assert not bucket.committed
