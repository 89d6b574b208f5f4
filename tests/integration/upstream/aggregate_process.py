"""An aggregate node as a process of its own, to be killed: `aggregate_process.py PORT hang|answer`.

Says `up` when it listens, and the id of each command that arrives.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from tidegate.wire.aggregate.gateway.v1 import command_pb2_grpc
from tidegate.wire.aggregate.gateway.v1.command_pb2 import (
    SubmitCommandRequest,
    SubmitCommandResponse,
)


class Node(command_pb2_grpc.CommandServiceServicer):
    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs

    async def SubmitCommand(  # noqa: N802
        self,
        request: SubmitCommandRequest,
        context: grpc.aio.ServicerContext[SubmitCommandRequest, SubmitCommandResponse],
    ) -> SubmitCommandResponse:
        print(request.command_id, flush=True)
        if self._hangs:
            await asyncio.Event().wait()
        return SubmitCommandResponse(command_id=request.command_id, version=1)


async def main() -> None:
    server = grpc.aio.server()
    command_pb2_grpc.add_CommandServiceServicer_to_server(Node(hangs=sys.argv[2] == "hang"), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    print("up", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
