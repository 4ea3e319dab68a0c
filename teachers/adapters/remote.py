"""Family `remote`: policy servers as teachers, `rpd serve`'s with one or several replicas, or openpi's."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

import torch

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import EnvSpec
from rpd.teachers import inputs
from rpd.teachers.adapters import openpi
from rpd.teachers.adapters.openpi import OpenPITeacher, parse_interface
from rpd.teachers.adapters.remote_options import OPENPI_OPTIONS, RemoteOptions
from rpd.teachers.adapters.remote_teacher import RemoteTeacher, camera_request_of
from rpd.teachers.adapters.replicas import ReplicatedTeacher, check_same_policy
from rpd.teachers.base import CameraRequest, Description, Input, Teacher
from rpd.teachers.refs import addresses
from rpd.teachers.registry import parse_options
from rpd.teachers.transport import TOKEN_SERVERS
from rpd.teachers.transport.client import HOW_TO_SEND, Client, read_token
from rpd.teachers.vla.action_table import describe_own_actions

LOG = logging.getLogger(__name__)


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``remote:ws://HOST:PORT[,ws://HOST:PORT]...``; see `rpd.teachers.registry`.

    Raises:
        ConfigError: no server at an address, one with another protocol, or replicas that serve different policies.
    """
    clients, chosen = _connect(argument, options)
    if "protocol" not in clients[0].metadata:
        return OpenPITeacher(clients[0], spec, device, parse_interface(chosen, clients[0].url))
    replicas = [RemoteTeacher(client, device) for client in clients]
    return ReplicatedTeacher(replicas, chosen.retries, chosen.rows) if len(replicas) > 1 else replicas[0]


def camera_request(argument: str | None, options: dict[str, str]) -> CameraRequest:
    """Cameras needed by the teacher behind the server; see `rpd.teachers.registry.camera_request`.

    Raises:
        ConfigError: see `from_string`.
    """
    client, chosen = _look(argument, options)
    if "protocol" not in client.metadata:
        return parse_interface(chosen, client.url).camera_request
    try:
        return camera_request_of(client.metadata)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"policy server {client.url}: bad metadata: {error!r}") from None


def describe(argument: str | None, options: dict[str, str], spec: EnvSpec, instruction: str) -> Description:
    """See `rpd.teachers.registry.describe`; needs a running server.

    Raises:
        ConfigError, SpecMismatch: see `from_string`.
    """
    teacher = from_string(argument, options, spec, torch.device("cpu"))
    try:
        if isinstance(teacher, OpenPITeacher):
            return openpi.describe(teacher, spec, instruction)
        assert isinstance(teacher, RemoteTeacher | ReplicatedTeacher)
        return _describe_served(teacher, spec, instruction)
    finally:
        teacher.close()


def _describe_served(teacher: RemoteTeacher | ReplicatedTeacher, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher behind `rpd serve`: both sides have the same environment."""
    replicas = teacher.replicas if isinstance(teacher, ReplicatedTeacher) else [teacher]
    first = replicas[0]
    facts = {
        "server" if len(replicas) == 1 else "servers": f"{', '.join(r.client.url for r in replicas)}, serves {first.served}",
        "made for": f"{first.spec.task} · {first.spec.embodiment.name}, {first.spec.control_hz:g} Hz",
        "memory": "per episode of each environment" if teacher.has_memory else "none",
        "output fields": ", ".join(sorted(teacher.output_fields)),
    }
    given = []
    for key in (*first.required, *first.optional):
        if key == "state":
            given.append(inputs.state(key, spec.state_names, "unchanged"))
        elif key == "privileged":
            given.append(
                Input(key, "the simulator's true poses", "if the environment provides them; only custom servers read them")
            )
        else:
            given.append(Input(key, key, f"uint8 {list(first.spec.observations[key].shape)}, unchanged"))
    size = camera_request_of(first.client.metadata).image_size
    given += [inputs.image(f"view.{camera}", camera, size, "uint8, unchanged") for camera in first.cameras]
    given.append(inputs.prompt("instructions", instruction))
    described = describe_own_actions(facts, given, spec, teacher.name)
    try:
        teacher.check_env(spec)
    except SpecMismatch as error:
        return replace(described, refusal=str(error))
    return described


def identity(argument: str | None, options: dict[str, str]) -> str | None:
    """Identity reported by the server; None if it reports none, like openpi's. See `rpd.teachers.registry.identity`.

    Raises:
        ConfigError: see `from_string`.
    """
    client, _ = _look(argument, options)
    reported = client.metadata.get("identity")
    return reported if isinstance(reported, str) else None


def _look(argument: str | None, options: dict[str, str]) -> tuple[Client, RemoteOptions]:
    """Connect, and close the connections: the first one's metadata are those of all."""
    clients, chosen = _connect(argument, options)
    for client in clients:
        client.close()
    return clients[0], chosen


def _connect(argument: str | None, options: dict[str, str]) -> tuple[list[Client], RemoteOptions]:
    """Connect to all servers of a reference.

    Raises:
        ConfigError: a missing server, servers of different policies, or options that do not apply to them.
    """
    if argument is None:
        raise ConfigError("teacher 'remote' needs the address of a policy server, e.g. remote:ws://127.0.0.1:8000")
    chosen, urls = parse_options(RemoteOptions, options, "remote"), addresses(argument)
    if twice := [url for url in urls if urls.count(url) > 1]:
        raise ConfigError(f"teacher remote: {twice[0]} is given twice: each replica has an address of its own")
    if chosen.rows is not None and len(urls) == 1:
        raise ConfigError(f"teacher remote: rows={chosen.rows} splits batches over replicas, and {urls[0]} is a single server")
    withheld = chosen.token == "withheld"
    token = None if withheld else read_token(chosen.token_file)
    remedy = f"a policy names this server: set {TOKEN_SERVERS}={argument} to trust it" if withheld else HOW_TO_SEND
    retries = chosen.retries if len(urls) == 1 else 0  # of several, another one answers
    clients: list[Client] = []
    with contextlib.ExitStack() as on_error:
        for url in urls:
            clients.append(Client(url, token, chosen.timeout, retries, on_retry=LOG.warning, remedy=remedy))
            on_error.callback(clients[-1].close)
        _check_protocols(clients, chosen)
        on_error.pop_all()
    return clients, chosen


def _check_protocols(clients: list[Client], chosen: RemoteOptions) -> None:
    foreign = [client.url for client in clients if "protocol" not in client.metadata]
    if foreign and len(clients) > 1:
        raise ConfigError(f"teacher remote: {foreign[0]} is not served by `rpd serve`: several replicas need servers of rpd")
    names = chosen.model_dump(include=set(OPENPI_OPTIONS), exclude_none=True)
    if names and not foreign:
        raise ConfigError(
            f"teacher remote: {', '.join(names)} only apply to openpi's servers; {clients[0].url} is served by rpd"
        )
    check_same_policy(clients)
