"""`rpd serve`: start a policy server."""

from __future__ import annotations

import asyncio
import signal

import torch

from rpd.config.serve import ServeConfig
from rpd.envs.errors import ConfigError
from rpd.serve.loading import load
from rpd.serve.peer import Limits, is_loopback
from rpd.serve.replicas import Replicas, check_ports, devices
from rpd.serve.server import READY, PolicyServer
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
    if options.replicas > 1:
        return _serve_replicas(options)
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


def _serve_replicas(options: ServeConfig) -> int:
    """Serve with several processes until SIGINT or SIGTERM; returns the exit code."""
    check_ports(options.host, options.port, options.replicas)
    chosen = devices(options.device, options.replicas, torch.cuda.device_count())
    commands = [
        _command(options.model_copy(update={"replicas": 1, "device": device, "port": options.port and options.port + i}))
        for i, device in enumerate(chosen)
    ]
    return Replicas(commands).run()


def _command(options: ServeConfig) -> list[str]:
    """Command line of these options, after ``rpd``."""
    words = ["serve", options.policy]
    for name, value in options.model_dump(mode="json", exclude_defaults=True, exclude={"policy"}).items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


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
