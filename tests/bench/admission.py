"""`Admission.admit` with everything in memory, and what its parts take.

On the views, the lease and the principals of a real replica; no request is made. The bare signature
check is measured beside it: it is the floor of every admission that has to verify a token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from bench.deployment import deployment, replica_in_process
from bench.measure import Figure, answer, at_most, folder, tell
from bench.population import Population
from tidegate.app import State
from tidegate.authz.engine import QUERY_READ
from tidegate.config import Settings
from tidegate.gateway.admission import Admission, Admitted, Call, Principal
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.ids import SessionId, new_id
from tidegate.routing.entries import placement_key, shard_key
from tidegate.routing.model import ServiceKind
from tidegate.sessions import access
from tidegate.sessions.access import AccessClaims
from tidegate.store.changes import Committed, Put
from tidegate.store.settings import LeaseSettings

_USERS = Population(users=1, tenants=1)
_USER, _TENANT = _USERS.user_id(0), _USERS.tenant_id(0)
_RESOURCE = {"view_type": "orders"}
_CLOCK = SystemClock()
_WHOLE, _VERIFYING = "admit, all of it", "verifying the token"
_GIVEN = "admit, as if the token's verdict were known"


async def measure(arguments: argparse.Namespace) -> list[Figure]:
    with folder(None) as scratch:
        async with deployment(scratch) as nats:
            settings = _unfenced(nats.settings())
            await _USERS.stored(scratch, settings, tell)
            async with replica_in_process(settings) as state:
                await _place(state)
                admission = _admission(state, settings)
                call = _call(state, settings)
                admitted = await admission.after_loading(lambda: admission.admit(call))
                if not isinstance(admitted, Admitted):
                    raise TypeError(f"it is not admitted: {admitted}")
                parts = _parts(admission, state, settings, call, admitted.principal)
                figures = _figures(parts, parts[_VERIFYING](), arguments)
                last = admission.admit(call)
                if not isinstance(last, Admitted):
                    raise TypeError(f"it is not admitted any more: {last}")
                return figures


def _unfenced(settings: Settings) -> Settings:
    """With a lease that outlasts the measurement, which lets nothing else run meanwhile."""
    nats = settings.nats.model_copy(update={"lease": LeaseSettings(ttl_s=3600)})
    return settings.model_copy(update={"nats": nats})


async def _place(state: State) -> None:
    """Somewhere for the tenant's queries to go."""
    endpoint = {"address": "127.0.0.1:9", "transport": "http"}
    changes = [
        Put(shard_key(ServiceKind.PROJECTION, "s1"), {"v": 1, "endpoints": [endpoint]}, 0),
        Put(placement_key(ServiceKind.PROJECTION, _TENANT), {"v": 1, "shard": "s1", "epoch": 1}, 0),
    ]
    for change in changes:
        result = await state.routing.commit([change], [])
        if not isinstance(result, Committed):
            raise TypeError(f"placing the tenant: {result}")
        await state.routing.progress.wait_for(result.revision, 5)


def _admission(state: State, settings: Settings) -> Admission:
    views = state.views
    return Admission(
        state.lease,
        state.principals,
        views.access,
        views.revocations,
        views.signing_keys,
        views.routing,
        settings.sessions,
        _CLOCK,
    )


def _call(state: State, settings: Settings) -> Call:
    now_s = _CLOCK.now_s()
    claims = AccessClaims(
        principal_id=_USER,
        session_id=SessionId(new_id()),
        session_epoch=0,
        expires_at_s=now_s + 3600,
        authenticated_at_s=now_s,
        amr=("pwd",),
        acr="1",
        scope="",
    )
    key = state.views.signing_keys.active
    if key is None:
        raise RuntimeError("there is no signing key")
    token = access.issue(claims, key, settings.sessions, now_s).reveal_text()
    return Call([f"Bearer {token}"], [_TENANT], QUERY_READ, _RESOURCE, ServiceKind.PROJECTION)


def _parts(
    admission: Admission, state: State, settings: Settings, call: Call, principal: Principal
) -> dict[str, Callable[[], object]]:
    token = call.authorization[0].partition(" ")[2]
    signing_keys, routing = state.views.signing_keys, state.views.routing
    curve = ec.ECDSA(SHA256())
    key = ec.generate_private_key(ec.SECP256R1())
    public, signed = key.public_key(), token.encode()
    signature = key.sign(signed, curve)
    return {
        _WHOLE: lambda: admission.admit(call),
        _VERIFYING: lambda: access.verify(token, signing_keys, settings.sessions, _CLOCK.now_s()),
        "of that, the signature alone": lambda: public.verify(signature, signed, curve),
        "authorize": lambda: admission.authorize(principal, _TENANT, QUERY_READ, _RESOURCE),
        "resolve": lambda: routing.routing.resolve(ServiceKind.PROJECTION, _TENANT),
    }


def _figures(
    parts: dict[str, Callable[[], object]], verdict: object, arguments: argparse.Namespace
) -> list[Figure]:
    """The parts in turn, again and again, so that a disturbance meets them all."""
    taken: dict[str, list[float]] = {what: [] for what in (*parts, _GIVEN)}
    for _ in range(arguments.repeats):
        for what, part in parts.items():
            taken[what].append(_microseconds(part, arguments.calls))
        with patch.object(access, "verify", lambda *_: verdict):
            taken[_GIVEN].append(_microseconds(parts[_WHOLE], arguments.calls))
    return [
        Figure(what, "µs", tuple(values), at_most(5) if what == _WHOLE else None)
        for what, values in taken.items()
    ]


def _microseconds(part: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        part()
    return (time.process_time() - began) / calls * 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.admission", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="calls in one repeat")
    answer(parser, measure)
