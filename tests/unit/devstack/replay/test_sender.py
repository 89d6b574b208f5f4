"""One command against replicas that answer as told: no sockets, no clock but the patience."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tidegate.devstack.api import Answer, NoAnswerError
from tidegate.devstack.replay import sender as sender_module
from tidegate.devstack.replay.rows import Command
from tidegate.devstack.replay.sender import Sender, settled
from tidegate.devstack.replay.tally import Outcome
from tidegate.devstack.signed_in_user import SignedInUser

COMMAND = Command("id-1", "stamp", "case-1", {})
ACCEPTED = Answer(200, {"duplicate": False}, None)
STARTED = datetime(2026, 11, 22, 12, tzinfo=UTC)


def duplicate_of(at: str) -> Answer:
    return Answer(200, {"duplicate": True, "events": [{"time": at}]}, None)


DUPLICATE = duplicate_of("2020-01-01T00:00:00Z")
TOKENS = {"access_token": "new", "refresh_token": "r2"}


def problem(status: int, code: str = "") -> Answer:
    return Answer(status, {"code": code}, None)


class Replica:
    """Answers commands and calls of its own in the order given; None is no answer at all."""

    def __init__(
        self, commands: Sequence[Answer | None] = (), posts: dict[str, Answer | None] | None = None
    ) -> None:
        self._commands = list(commands)
        self._posts = posts or {}
        self.tokens: list[str | None] = []
        self.posted: list[str] = []

    async def command(self, _kind: str, _id: str, _body: Any, caller: Any) -> Answer:
        self.tokens.append(caller.token)
        return self._answer(self._commands.pop(0) if self._commands else None)

    async def post(self, path: str, _body: Any) -> Answer:
        self.posted.append(path.rpartition("/")[2])
        return self._answer(self._posts.get(self.posted[-1]))

    def _answer(self, answer: Answer | None) -> Answer:
        if answer is None:
            raise NoAnswerError("connection refused")
        return answer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "_pause_s", lambda _: 0)


def sender(*replicas: Any, patience_s: float = 30.0) -> Sender:
    user = SignedInUser(replicas, "ann@example.org", "secret")
    user._take({"access_token": "old", "refresh_token": "r1"})
    return Sender(replicas, user, "acme", "permit", patience_s)


async def test_replicas_take_turns() -> None:
    one, two = Replica([ACCEPTED] * 2), Replica([ACCEPTED] * 2)
    sending = sender(one, two)
    for _ in range(4):
        assert (await sending.send(COMMAND)).outcome is Outcome.ACCEPTED
    assert (len(one.tokens), len(two.tokens)) == (2, 2)


@pytest.mark.parametrize("first", [None, *map(problem, (429, 502, 503, 504))])
async def test_what_leaves_the_fate_open_is_sent_again_to_the_other_replica(
    first: Answer | None,
) -> None:
    one, two = Replica([DUPLICATE]), Replica([first])
    result = await sender(one, two).send(COMMAND)
    assert (result.outcome, result.tries) == (Outcome.DUPLICATE, 2)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (404, Outcome.REFUSED),
        (409, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (500, Outcome.FAILED),
    ],
)
async def test_what_settles_it_is_not_repeated(status: int, outcome: Outcome) -> None:
    one, two = Replica(), Replica([problem(status, "WORD")])
    result = await sender(one, two).send(COMMAND)
    assert (result.outcome, result.tries, result.reason) == (outcome, 1, f"{status} WORD")


async def test_an_expired_token_is_refreshed_and_the_command_sent_again() -> None:
    replica = Replica([problem(401), ACCEPTED], {"refresh": Answer(200, TOKENS, None)})
    result = await sender(replica).send(COMMAND)
    assert (result.outcome, result.tries) == (Outcome.ACCEPTED, 1)
    assert replica.tokens == ["old", "new"]
    assert replica.posted == ["refresh"]


async def test_when_the_session_is_gone_the_user_signs_in_again() -> None:
    posts: dict[str, Answer | None] = {
        "refresh": problem(401),
        "signin": Answer(200, TOKENS, None),
    }
    replica = Replica([problem(401), ACCEPTED], posts)
    assert (await sender(replica).send(COMMAND)).outcome is Outcome.ACCEPTED
    assert replica.posted == ["refresh", "signin"]


async def test_a_token_that_is_refused_even_when_new_is_a_refusal() -> None:
    replica = Replica([problem(401), problem(401)], {"refresh": Answer(200, TOKENS, None)})
    assert (await sender(replica).send(COMMAND)).outcome is Outcome.REFUSED


async def test_when_nobody_answers_in_time_it_has_failed_and_the_rest_is_not_tried() -> None:
    replica = Replica()
    sending = sender(replica, patience_s=0.01)
    result = await sending.send(COMMAND)
    assert (result.outcome, result.reason) == (Outcome.FAILED, "connection refused")
    tried = len(replica.tokens)
    assert tried > 0
    later = await sending.send(COMMAND)
    assert (later.outcome, later.tries) == (Outcome.FAILED, 0)
    assert len(replica.tokens) == tried


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_status_that_passes_settles_nothing(status: int) -> None:
    assert settled(problem(status), STARTED) is None


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        ("2026-11-22T11:59:59.999999999Z", Outcome.DUPLICATE),
        ("2026-11-22T12:00:00Z", Outcome.ACCEPTED),
        ("2026-11-22T12:00:00.000001Z", Outcome.ACCEPTED),
    ],
)
def test_a_duplicate_of_this_very_run_was_accepted_in_it(at: str, outcome: Outcome) -> None:
    assert settled(duplicate_of(at), STARTED) is outcome


async def test_an_id_that_comes_twice_in_one_file_is_accepted_once() -> None:
    young = duplicate_of("2999-01-01T00:00:00Z")
    sending = sender(Replica([ACCEPTED, young]))
    assert (await sending.send(COMMAND)).outcome is Outcome.ACCEPTED
    assert (await sending.send(COMMAND)).outcome is Outcome.DUPLICATE
