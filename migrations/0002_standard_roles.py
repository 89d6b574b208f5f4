"""Creates the platform's three roles: platform-admin, tenant-admin, tenant-member."""

from __future__ import annotations

import time

from tidegate.store.changes import Committed, Conflict, Put, Value
from tidegate.store.events import Origin, Record
from tidegate.store.schema import Context, SchemaError


def _right(action: str) -> dict[str, object]:
    return {"action": action, "resource": {}}


_ROLES: dict[str, tuple[str, list[dict[str, object]]]] = {
    "platform-admin": ("Platform admin", [_right("*")]),
    "tenant-admin": (
        "Tenant admin",
        [_right("iam.*"), _right("audit.read"), _right("routing.read")],
    ),
    "tenant-member": (
        "Tenant member",
        [_right("command.submit"), _right("query.read"), _right("stream.read")],
    ),
}


async def apply(context: Context) -> None:
    for role_id, (name, rights) in _ROLES.items():
        value: Value = {"v": 1, "name": name, "tenant": None, "rights": rights}
        record = Record("role.created", role_id, "system", None, Origin("", "", ""))
        result = await context.iam.commit(
            [Put(f"role.{role_id}", value, 0)], [record.event(time.time())]
        )
        # A conflict means that an earlier try made it; it may have been changed since.
        if not isinstance(result, Committed | Conflict):
            raise SchemaError(f"creating the role {role_id} failed: {result}")
