"""`rpd serve`: start a policy server."""

from __future__ import annotations

import asyncio
import signal

import torch

from rpd.config.serve import ServeConfig
from rpd.envs.errors import ConfigError
from rpd.serve.loading import load
from rpd.serve.peer import Limits, is_loopback
from rpd.serve.server import PolicyServer
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.teachers import registry as teachers
from rpd.teachers.transport import TOKEN_VARIABLE
from rpd.teachers.transport.client import read_token


def main(options: ServeConfig) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    token = read_token(options.token_file)
    if token is None and not is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host}: others than this machine could use the policy: "
            f"add --token-file FILE or set {TOKEN_VARIABLE}, e.g. to what `openssl rand -hex 32` prints"
        )
    total = options.max_total_rows
    if total is not None and total < options.max_rows:
        raise ConfigError(f"--max-total-rows {total} is less than one client may have: --max-rows {options.max_rows}")
    teacher, spec, camera_request = load(options)
    identity = teachers.identity(options.policy)
    limits = Limits(options.max_message_mb * 2**20, options.max_rate, options.max_clients)
    status = Status()
    try:
        service = PolicyService(teacher, spec, options.policy, camera_request, options.max_rows, status.log, identity, total)
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
    what = f"serving {server.service.name} for {spec.task} ({spec.embodiment.name})"
    await server.run(stop, lambda port: server.status.log(f"{what} on ws://{host}:{port}"))
