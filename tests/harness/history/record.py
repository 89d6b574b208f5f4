"""The log of a run: who asked what of which replica, when, and what came back.

Invariant: all times are of one clock (CLOCK_MONOTONIC, which the processes of a machine share).
A call's `start_s` is read before anything of it is sent, its `end_s` when its answer is whole; so
whatever the call did or saw, it did and saw in between, if it was answered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Self

NO_ANSWER = 0

# What admission asks for: ("user", id), ("session", user id, session id),
# ("assignment", user id, tenant), ("tenant", id). A change of ("session", id) is one of all
# sessions of that user.
Right = tuple[str, ...]


def now_s() -> float:
    return time.monotonic()


class ChangeKind(StrEnum):
    DISABLE = "disable"
    ENABLE = "enable"
    END_SESSIONS = "end sessions"
    END_SESSION = "end session"
    SIGN_IN = "sign in"
    UNASSIGN = "unassign"
    ASSIGN = "assign"
    SUSPEND = "suspend"
    RESUME = "resume"

    @property
    def gives(self) -> bool:
        return self in _GIVING


_GIVING = {ChangeKind.ENABLE, ChangeKind.SIGN_IN, ChangeKind.ASSIGN, ChangeKind.RESUME}


class Verdict(Enum):
    """What an answer says about the rights of who asked."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    UNCLEAR = "unclear"


# Admission comes before everything that can be said about a request's content, so these tell
# that it was passed. 400 can be about the tenant header, and so does not.
_AFTER_ADMISSION = {404, 409, 413, 415, 422}


@dataclass(frozen=True, slots=True)
class Request:
    """A call that changes nothing and is admitted or refused."""

    client: str
    replica: str
    principal: str
    tenant: str
    kind: str
    needs: tuple[Right, ...]
    start_s: float
    end_s: float
    status: int
    code: str = ""

    @property
    def verdict(self) -> Verdict:
        if 200 <= self.status < 300 or self.status in _AFTER_ADMISSION:
            return Verdict.ADMITTED
        return Verdict.REFUSED if self.status in (401, 403) else Verdict.UNCLEAR


@dataclass(frozen=True, slots=True)
class Change:
    """A call that gives a right or takes it away.

    `id` went along as the user agent, so that the commit it made can be found in the stream.
    `revision` is what the answer named; `unconfirmed` how many replicas had not confirmed it.
    """

    id: str
    kind: ChangeKind
    right: Right
    replica: str
    start_s: float
    end_s: float
    status: int
    code: str = ""
    revision: int | None = None
    unconfirmed: int = 0

    @property
    def acknowledged(self) -> bool:
        """Whether the answer promises that it holds.

        Taking away what is gone already is answered only when that holds everywhere, too.
        """
        gone = self.kind is ChangeKind.UNASSIGN and self.code == "NOT_FOUND"
        return gone or 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        return 400 <= self.status < 500 and not self.acknowledged

    @property
    def in_effect(self) -> bool:
        """Whether it had its effect by the time of its answer, because the answer says so."""
        return self.acknowledged or self.code == "BARRIER_PENDING"


@dataclass(frozen=True, slots=True)
class Fault:
    """From `start_s` on something was broken; at `end_s` it was taken away again."""

    kind: str
    target: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Log:
    """Everything that was seen. `commits`, once it is known: the sequence of each change's own
    commit; a change that is not in it made none. `under_way` are the changes that have no answer
    yet, while it goes on."""

    requests: list[Request] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    commits: dict[str, int] | None = None
    under_way: dict[str, Change] = field(default_factory=dict)

    def so_far(self) -> Log:
        """What can be judged while it goes on: what has no answer yet may have any outcome."""
        return Log(list(self.requests), [*self.changes, *self.under_way.values()])

    def write(self, path: Path) -> None:
        """As NDJSON: one record a line, with its type in `is`."""
        with path.open("w", encoding="utf-8") as file:
            for kind, value in self._records():
                file.write(json.dumps({"is": kind, **value}) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        log = cls()
        for line in path.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            match value.pop("is"):
                case "request":
                    needs = tuple(tuple(right) for right in value.pop("needs"))
                    log.requests.append(Request(needs=needs, **value))
                case "change":
                    kind, right = ChangeKind(value.pop("kind")), tuple(value.pop("right"))
                    log.changes.append(Change(kind=kind, right=right, **value))
                case "fault":
                    log.faults.append(Fault(**value))
                case "commits":
                    log.commits = {str(key): int(at) for key, at in value["of"].items()}
                case other:
                    raise ValueError(f"a log has no records of type {other!r}")
        return log

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from (("fault", asdict(fault)) for fault in self.faults)
        yield from (("change", asdict(change)) for change in self.changes)
        yield from (("request", asdict(request)) for request in self.requests)
        if self.commits is not None:
            yield "commits", {"of": self.commits}
