"""Who acts: an admin, and cells, each a tenant with one member whose rights come and go.

A right has one writer, the one of its cell: what a cell's requests may do depends on nothing
that another cell's writer does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from harness.history.calls import Call, send
from harness.history.commits import SET_UP
from harness.history.deployment import Deployment
from harness.history.record import Change, ChangeKind, Log, Right, now_s
from tidegate import app
from tidegate.identity import accounts
from tidegate.identity.accounts import NewAccount
from tidegate.identity.passwords import Passwords, normalize
from tidegate.kernel.errors import Refusal
from tidegate.kernel.ids import PrincipalId, new_id
from tidegate.store.barrier import Effect
from tidegate.store.bucket import Bucket, Decision, Read
from tidegate.store.events import Origin, Record

PASSWORD = "a passphrase that is long enough"
ROLE = "tenant-member"
_ADMIN = "admin@example.org"
_TIMEOUT_S = 20.0


class SetUpError(Exception):
    """The world could not be made."""


@dataclass(slots=True)
class Cell:
    """A tenant and its member, who has the session that was signed in last."""

    tenant: str
    user_id: str
    email: str
    token: str = ""
    refresh_token: str = ""
    session_id: str = ""

    def take_session(self, tokens: Mapping[str, str]) -> None:
        """From now on it acts with these."""
        self.token = tokens["access_token"]
        self.refresh_token = tokens["refresh_token"]
        self.session_id = tokens["session_id"]

    @property
    def user(self) -> Right:
        return ("user", self.user_id)

    @property
    def assignment(self) -> Right:
        return ("assignment", self.user_id, self.tenant)

    @property
    def place(self) -> Right:
        return ("tenant", self.tenant)

    @property
    def session(self) -> Right:
        return ("session", self.user_id, self.session_id)

    def changed_by(self, kind: ChangeKind) -> Right:
        """What a change of this kind gives or takes; of a sign-in, less the session's id."""
        match kind:
            case ChangeKind.DISABLE | ChangeKind.ENABLE:
                return self.user
            case ChangeKind.UNASSIGN | ChangeKind.ASSIGN:
                return self.assignment
            case ChangeKind.SUSPEND | ChangeKind.RESUME:
                return self.place
            case ChangeKind.END_SESSION:
                return self.session
            case ChangeKind.END_SESSIONS | ChangeKind.SIGN_IN:
                return ("session", self.user_id)


async def bootstrap(deployment: Deployment) -> None:
    made = await app.bootstrap_admin(deployment.settings, _ADMIN, PASSWORD)
    if isinstance(made, Refusal):
        raise SetUpError(made.detail)


async def make_cells(
    deployment: Deployment, http: aiohttp.ClientSession, count: int, log: Log
) -> tuple[str, Sequence[Cell]]:
    """The admin's token and the cells, their rights given. The replicas must run."""
    url = deployment.replicas[0].url
    token = (await _sign_in(http, url, _ADMIN))["access_token"]
    cells = [
        Cell(f"tenant-{place}", new_id(), f"member-{place}@example.org")
        for place in range(1, count + 1)
    ]
    started_s = now_s()
    await _make_users(deployment, cells)
    calls = [
        *(Call("POST", "/admin/iam/tenants", {"id": c.tenant, "name": c.tenant}) for c in cells),
        *(Call("POST", "/admin/iam/assignments", assignment_body(cell)) for cell in cells),
        Call(
            "POST",
            "/admin/routing/apply",
            {
                "projection_shards": {"s1": [deployment.upstream_url]},
                "projection_placement": {cell.tenant: "s1" for cell in cells},
            },
        ),
    ]
    for call in calls:
        as_admin = Call(call.method, call.path, call.body, token)
        answer = await send(http, url, as_admin, _TIMEOUT_S)
        if answer.status not in (200, 201) or answer.unconfirmed:
            raise SetUpError(f"{call.path} was answered with {answer}")
    for cell in cells:
        cell.take_session(await _sign_in(http, url, cell.email))
    ended_s = now_s()
    for cell in cells:
        given = {
            ChangeKind.ENABLE: cell.user,
            ChangeKind.ASSIGN: cell.assignment,
            ChangeKind.RESUME: cell.place,
            ChangeKind.SIGN_IN: cell.session,
        }
        for kind, right in given.items():
            change = Change(f"{SET_UP}-{new_id()}", kind, right, "r1", started_s, ended_s, 200)
            log.changes.append(change)
    return token, cells


def assignment_body(cell: Cell) -> dict[str, object]:
    return {"principal_id": cell.user_id, "tenant_id": cell.tenant, "role_id": ROLE}


async def _sign_in(http: aiohttp.ClientSession, url: str, email: str) -> Mapping[str, str]:
    body = {"email": email, "password": PASSWORD}
    answer = await send(http, url, Call("POST", "/v1/auth/signin", body), _TIMEOUT_S)
    if answer.status != 200:
        raise SetUpError(f"signing in was answered with {answer}")
    tokens: Mapping[str, str] = answer.body
    return tokens


async def _make_users(deployment: Deployment, cells: Sequence[Cell]) -> None:
    """Accounts as they are after sign-up and verification, without the mail."""
    passwords = Passwords(deployment.settings.identity.password)
    try:
        hashed = await passwords.hash(normalize(PASSWORD))
    finally:
        passwords.close()
    if isinstance(hashed, Refusal):
        raise SetUpError(hashed.detail)
    async with app.operator_bucket(deployment.settings) as iam:
        for cell in cells:
            await _make_user(deployment, iam, cell, hashed)


async def _make_user(deployment: Deployment, iam: Bucket, cell: Cell, hashed: str) -> None:
    user_id = PrincipalId(cell.user_id)
    keys = app.read_keys(deployment.settings)

    async def decide(_: Read) -> Decision[None]:
        at_s = time.time()
        account = NewAccount(cell.email, cell.email, email_verified=True)
        _user, changes = accounts.create(user_id, account, keys, at_s)
        password_set = accounts.set_password(user_id, hashed, None, at_s)
        record = Record("user.signed_up", user_id, "operator", None, Origin("", "", "history"))
        return Decision([*changes, password_set], [record.event(at_s)], None)

    done = await iam.execute(decide, Effect.UNSEEN)
    if isinstance(done, Refusal):
        raise SetUpError(done.detail)
