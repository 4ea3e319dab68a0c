"""`rpd serve`: from a command line to a running server."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Literal

import torch
import tyro
from pydantic import BaseModel, ConfigDict, Field

from envs import registry as envs
from envs.errors import ConfigError, unknown_name
from envs.specs import EnvSpec
from rpd.runs import near
from rpd.serve.server import Limits, PolicyServer, is_loopback
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.settings import train_options
from rpd.trainer import resolve_device
from teachers import registry as teachers
from teachers.base import Teacher, Views
from teachers.policy import frozen
from teachers.wire.client import TOKEN_VARIABLE, read_token


class ServeOptions(BaseModel):
    """Serve a policy over a websocket, to rpd's `remote:` teacher, to openpi's client, or to a robot."""

    model_config = ConfigDict(extra="forbid")

    policy: tyro.conf.Positional[str]
    """Run, checkpoint or policy folder; or a teacher, e.g. scripted:noisy, see `rpd list`."""
    task: str | None = None
    """Task that a teacher is made for. A trained policy knows its own, and what it observes."""
    robot: str | None = None
    """A teacher's robot; default: the task's."""
    obs: Literal["state", "image"] | None = None
    """What a teacher observes; default: state."""
    cameras: tuple[str, ...] | None = None
    """Cameras with obs=image, by name."""
    image_size: int | None = Field(None, ge=8, le=1024)
    """Height and width of an image, pixels."""
    control_mode: str | None = None
    """ManiSkill: controller."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's own (0.0.0.0: all) want a token."""
    port: int = Field(8000, ge=0, le=65535)
    """Port; 0: any free one."""
    token_file: Path | None = None
    """File with the token that clients must send; default: the environment variable RPD_SERVE_TOKEN, else none."""
    max_message_mb: int = Field(64, ge=1, le=1024)
    """Largest message, MiB."""
    max_rate: float = Field(1000.0, gt=0)
    """Requests per second and client; who sends more waits."""
    max_clients: int = Field(32, ge=1)
    """Connections at a time."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of the policy."""


ENVIRONMENT = ("task", "robot", "obs", "cameras", "image_size", "control_mode")


def main(options: ServeOptions) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    torch.set_num_threads(options.num_threads or 1)
    token = read_token(options.token_file)
    if token is None and not is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host}: others than this machine could use the policy: "
            f"add --token-file FILE or set {TOKEN_VARIABLE}, e.g. to what `openssl rand -hex 32` prints"
        )
    teacher, spec, views = load(options)
    limits = Limits(options.max_message_mb * 2**20, options.max_rate, options.max_clients)
    status = Status()
    try:
        server = PolicyServer(
            PolicyService(teacher, spec, options.policy, views), options.host, options.port, token, limits, status
        )
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
    await server.run(stop, lambda port: server.status.say(f"{what} on ws://{host}:{port}"))


def load(options: ServeOptions) -> tuple[Teacher, EnvSpec, Views]:
    """Build who is served, the environment that it is for, and what it has to be shown.

    Raises:
        ConfigError: nothing of that name, or an environment is asked for and not said, or the reverse.
    """
    family, argument, _ = teachers.parse(options.policy)
    given = [f"--{name.replace('_', '-')}" for name in ENVIRONMENT if getattr(options, name) is not None]
    device = resolve_device(options.device)
    path = argument if family == "policy" else options.policy
    if path is not None and (family == "policy" or not teachers.names_teacher(options.policy)):
        if family != "policy" and not Path(path).exists():
            raise unknown_name("teacher or run", path, [*teachers.FAMILIES, *near(Path(path))])
        if given:
            raise ConfigError(f"{options.policy} knows the environment that it was trained for: leave out {', '.join(given)}")
        served = frozen(path, options.policy, None, device)
        return served, served.policy.spec, Views()
    if options.task is None:
        raise ConfigError(f"{options.policy}: for which task? add --task, e.g. --task tabletop/PickCube")
    args = [options.task, "--env.num-envs", "1"]  # the environment that `rpd train` would build
    for name in ENVIRONMENT[1:]:
        if (value := getattr(options, name)) is not None:
            values = value if isinstance(value, tuple) else (value,)
            args += [f"--env.{name.replace('_', '-')}", *map(str, values)]
    env = envs.make(options.task, train_options(args).run_config().env, device, options.num_threads)
    spec = env.spec
    env.close()
    return teachers.make(options.policy, spec, device), spec, teachers.needs(options.policy)
