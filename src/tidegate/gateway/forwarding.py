"""Forwarding: what an admitted request becomes at the upstream that it was placed on.

The request that an upstream gets is built anew from what was checked. A client's word about
who it is never reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.gateway.admission import Admitted
from tidegate.kernel.errors import Refusal
from tidegate.observability.context import RequestContext
from tidegate.upstream.aggregates import Aggregates
from tidegate.upstream.call import CallContext
from tidegate.upstream.projections import Projections, UpstreamAnswer
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Sends admitted requests on."""

    aggregates: Aggregates
    projections: Projections
    total_timeout_s: float

    async def submit_command(
        self,
        admitted: Admitted,
        command: SubmitCommandRequest,
        request: RequestContext,
        timeout_s: float | None,
    ) -> SubmitCommandResponse | Refusal:
        """Has one command decided."""
        call = self._call(admitted, request, timeout_s)
        return await self.aggregates.submit(admitted.target.endpoints, command, call)

    async def query(
        self,
        admitted: Admitted,
        path: str,
        body: bytes,
        content_type: str,
        request: RequestContext,
        timeout_s: float | None,
    ) -> UpstreamAnswer | Refusal:
        """Has one query answered."""
        call = self._call(admitted, request, timeout_s)
        return await self.projections.query(
            admitted.target.endpoints, path, body, content_type, call
        )

    def _call(
        self, admitted: Admitted, request: RequestContext, timeout_s: float | None
    ) -> CallContext:
        ours_s = self.total_timeout_s
        return CallContext(
            tenant_id=admitted.tenant_id,
            principal_id=admitted.principal.id,
            principal_kind=admitted.principal.kind,
            session_id=admitted.principal.session_id,
            correlation_id=request.correlation_id,
            traceparent=request.trace.traceparent,
            tracestate=request.trace.state,
            deadline_s=ours_s if timeout_s is None else min(ours_s, timeout_s),
        )
