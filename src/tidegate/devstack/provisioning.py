"""What a stack is given through the admin API: demo tenants, and where their nodes are.

Each start does it again. What is there stays, so an operator's moves survive a restart, except
that the shard of the demo nodes follows them when their ports have changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidegate.devstack.api import Api, As
from tidegate.devstack.ready_file import Admin, Node

TENANTS = {"acme": "Acme Corporation", "globex": "Globex Corporation"}
_SHARD = "s1"


async def provision(apis: Sequence[Api], admin: Admin, nodes: Sequence[Node]) -> None:
    """Return once every replica knows the tenants and where they are.

    Raises NoAnswerError or UnexpectedAnswerError.
    """
    api = apis[0]
    as_admin = await sign_in(api, admin.email, admin.password)
    revisions: list[str | None] = []
    for tenant_id, name in TENANTS.items():
        made = await api.post("/admin/iam/tenants", {"id": tenant_id, "name": name}, as_admin)
        if made.code != "ALREADY_EXISTS":
            made.checked(201, f"creating the tenant {tenant_id}")
        revisions.append(made.revision)
    changes = await _routing_changes(api, as_admin, nodes)
    applied = await api.post("/admin/routing/apply", changes, as_admin)
    revisions.append(applied.checked(200, "placing the tenants").revision)
    await wait_seen(apis, *revisions)


async def sign_in(api: Api, email: str, password: str) -> As:
    """The user as a caller. Raises NoAnswerError or UnexpectedAnswerError."""
    answer = await api.post("/v1/auth/signin", {"email": email, "password": password})
    return As(token=answer.checked(200, f"signing in as {email}").body["access_token"])


async def give_role(
    apis: Sequence[Api], as_admin: As, principal_id: str, tenant_id: str, role_id: str
) -> None:
    """Return once every replica knows it. Raises NoAnswerError or UnexpectedAnswerError."""
    body = {"principal_id": principal_id, "tenant_id": tenant_id, "role_id": role_id}
    given = await apis[0].post("/admin/iam/assignments", body, as_admin)
    await wait_seen(apis, given.checked(201, f"giving the role {role_id}").revision)


async def wait_seen(apis: Sequence[Api], *revisions: str | None) -> None:
    """Return once every replica has seen these changes."""
    for api in apis:
        for revision in filter(None, revisions):
            seen = await api.get("/version", As(min_revision=revision))
            seen.checked(200, f"waiting for {revision} at {api.url}")


async def _routing_changes(
    api: Api, as_admin: As, nodes: Sequence[Node]
) -> dict[str, dict[str, object]]:
    changes: dict[str, dict[str, object]] = {}
    for node in nodes:
        changes[f"{node.kind}_shards"] = {_SHARD: [node.address]}
        for tenant_id in TENANTS:
            where = f"/admin/routing/resolve?tenant={tenant_id}&kind={node.kind}"
            if (await api.get(where, as_admin)).code == "TENANT_NOT_PLACED":
                changes.setdefault(f"{node.kind}_placement", {})[tenant_id] = _SHARD
    return changes
