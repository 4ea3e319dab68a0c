"""`rpd serve`: start a policy server."""

from __future__ import annotations

import asyncio
import signal

import torch

from rpd.config.serve import ServeConfig
from rpd.serve.access import check_access
from rpd.serve.loading import load
from rpd.serve.peer import Limits
from rpd.serve.server import PolicyServer
from rpd.serve.service import PolicyService
from rpd.serve.status import READY, Status
from rpd.teachers import registry as teachers


def main(options: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    token = check_access(options)
    teacher, spec, camera_request = load(options)
    identity = teachers.identity(options.policy)
    limits = Limits(options.max_message_mb * 2**20, options.max_rate, options.max_clients)
    status = Status()
    try:
        service = PolicyService(
            teacher, spec, options.policy, camera_request, options.max_rows, status.log, identity, options.max_total_rows
        )
        server = PolicyServer(service, options.host, options.port, token, limits, status)
        asyncio.run(_run(server))
    finally:
        status.close()
    return 0


async def _run(server: PolicyServer) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def stopping(signum: int) -> None:
        stop.set()
        loop.remove_signal_handler(signum)  # a second signal ends even a policy that does not

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopping, signum)
    host = f"[{server.host}]" if ":" in server.host else server.host
    spec = server.service.spec
    what = f"{READY}{server.service.name} for {spec.task} ({spec.embodiment.name})"
    await server.run(stop, lambda port: server.status.log(f"{what} on ws://{host}:{port}"))
