"""Use a policy server as a teacher: the client of `rpd serve` and of openpi's server."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.specs import EnvSpec
from rpd.teachers import inputs
from rpd.teachers.adapters import openpi
from rpd.teachers.adapters.openpi import OpenPITeacher, parse_interface
from rpd.teachers.adapters.remote_options import OPENPI_OPTIONS, RemoteOptions
from rpd.teachers.base import CameraRequest, Description, Input, Teacher, TeacherOutput
from rpd.teachers.registry import parse_options
from rpd.teachers.transport import TOKEN_SERVERS
from rpd.teachers.transport.client import HOW_TO_SEND, PROTOCOL, Client, read_token
from rpd.teachers.transport.codec import Message
from rpd.teachers.vla.action_table import describe_own_actions

LOG = logging.getLogger(__name__)

# Shapes of the fields of a label; None: any size.
FIELDS: dict[str, tuple[str | None, ...]] = {
    "mean": ("N", "A"), "valid": ("N",), "std": ("N", "A"), "samples": ("N", None, "A"), "bin_logits": ("N", "A", None),
    "log_prob": ("N",),
}  # fmt: skip


class RemoteTeacher(Teacher):
    """Labels with the answers of `rpd serve`. The server's random state is not part of a checkpoint."""

    runs_remotely = True

    def __init__(self, client: Client, device: torch.device) -> None:
        """Wrap a connection.

        Args:
            client: connection to a server with our protocol.
            device: device of the labels.

        Raises:
            ConfigError: the server's metadata do not match this version.
        """
        metadata = client.metadata
        if metadata.get("protocol") != PROTOCOL:
            raise ConfigError(
                f"policy server {client.url}: protocol {metadata.get('protocol')!r}, this version has {PROTOCOL!r}"
            )
        try:
            self.spec = EnvSpec.model_validate(metadata["spec"])
            self.output_fields = frozenset(metadata["output_fields"]) & FIELDS.keys()
            self.required, self.optional = tuple(metadata["observations"]), tuple(metadata["optional"])
            self.served = str(metadata["name"])
            self.needs_teacher_images, self._remembers = bool(metadata["needs_teacher_images"]), bool(metadata["remembers"])
            self.is_stateful, self._exclusive = bool(metadata["is_stateful"]), bool(metadata["exclusive"])
            self._most = int(metadata["limits"]["rows"])
            self.cameras = _camera_request(metadata).cameras
            self.bin_edges = _tensor(metadata["bin_edges"]).to(device) if "bin_edges" in metadata else None
        except (KeyError, TypeError, ValidationError) as error:
            raise ConfigError(f"policy server {client.url}: bad metadata: {' '.join(str(error).split())[:200]}") from None
        self.client, self._device = client, device
        self.name = f"remote:{client.url}"

    def check_env(self, spec: EnvSpec) -> None:
        """Compare the specs, and apply the checks of the teacher behind the server.

        Raises:
            SpecMismatch: names both sides.
        """
        if self.needs_teacher_images and spec.state_names != self.spec.state_names:
            self.optional = tuple(key for key in self.optional if key != "state")
        try:
            spec.check_policy(as_served(self.spec, spec, self.needs_teacher_images))
            self.client.request({"request": "check", "spec": spec.model_dump(mode="json")})
        except (SpecMismatch, ServerLost) as error:
            raise SpecMismatch(f"teacher '{self.name}', which serves {self.served}: {error}") from None

    @property
    def reads_observations(self) -> bool:
        """Whether the server requires observations."""
        return bool(self.required)

    @property
    def has_memory(self) -> bool:
        """Whether the teacher behind the server has memory."""
        return self._remembers

    def new_session(self) -> RemoteTeacher | None:
        """See `Teacher.new_session`: opens another connection."""
        return None if self._exclusive else RemoteTeacher(self.client.another(), self._device)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Request labels, in parts if there are more observations than the server takes at once.

        Raises:
            ConfigError: parts are needed, but the teacher keeps memory by row.
            ServerLost: no answer, or not an answer to this request.
        """
        parts = []
        for rows in self._parts(len(instructions), self.is_stateful):
            action = None if student_action is None else student_action[rows]
            parts.append(self._label(obs[rows], instructions[rows], action).tensors())
        return TeacherOutput(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None) -> TeacherOutput:
        request: Message = {"request": "label", "obs": self._arrays(obs), "instructions": instructions}
        if student_action is not None:
            request["student_action"] = _array(student_action)
        if self.requested_fields != self.output_fields:
            request["requested_fields"] = sorted(self.requested_fields)
        answer = self._ask(request)
        given = {name: answer[name] for name in FIELDS if name in answer}
        if not {"mean", "valid"} <= given.keys():
            raise ServerLost(f"policy server {self.client.url}: a label without mean and valid")
        sizes = {"N": len(instructions), "A": self.spec.action.dim}
        return TeacherOutput(**{name: self._field(name, value, sizes) for name, value in given.items()})

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Request actions, which may differ from the mean of the labels; see `label`."""
        parts = self._parts(len(instructions), self._remembers)
        return torch.cat([self._act(obs[rows], instructions[rows]) for rows in parts])

    def _act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        answer = self._ask({**self._arrays(obs), "prompt": instructions})
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.shape[::2] != (len(instructions), self.spec.action.dim):
            raise ServerLost(f"policy server {self.client.url}: actions of another shape than asked for")
        return _tensor(actions[:, 0]).to(self._device)

    def reset(self, mask: Tensor) -> None:
        """Mark ended episodes for the next request, if the teacher behind the server has memory."""
        if self._remembers:
            self.client.request({"request": "reset", "mask": _array(mask)})

    def seed(self, seed: int) -> None:
        """Seed the random state of the teacher behind the server."""
        self.client.request({"request": "seed", "seed": seed})

    @property
    def device(self) -> torch.device:
        """Device of the labels."""
        return self._device

    def _ask(self, request: Message) -> Message:
        """Send a request; warn if a new connection has cleared the teacher's memory."""
        before = self.client.connections
        answer = self.client.request(request)
        if self._remembers and self.client.connections > before > 0:
            LOG.warning(f"policy server {self.client.url}: connected again; its memory of the running episodes is lost")
        return answer

    def _parts(self, rows: int, together: bool) -> list[slice]:
        """Slices of at most the number of rows that the server takes at once."""
        if together and rows > self._most:
            raise ConfigError(
                f"teacher {self.name} has memory per environment, and its server takes {self._most} at once, not {rows}: "
                "lower env.num_envs, or serve with a larger --max-rows"
            )
        return [slice(start, start + self._most) for start in range(0, rows, self._most)]

    def _arrays(self, obs: TensorDict) -> dict[str, np.ndarray]:
        """Arrays of an observation that the server reads."""
        there = [str(key) for key in obs.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
        images = [key for key in there if self.needs_teacher_images and key.startswith(("view.", "image."))]
        if self.cameras:  # the teacher's own view of a camera takes precedence; the server reports missing ones
            views = {key.partition(".")[2]: key for key in sorted(images)}  # "image." before "view."
            images = [views[camera] for camera in self.cameras if camera in views]
        optional = [key for key in self.optional if key in there]
        return {key: _array(obs[key]) for key in (*self.required, *optional, *images)}

    def _field(self, name: str, value: Any, sizes: dict[str, int]) -> Tensor:
        expected = FIELDS[name]
        kind = "b" if name == "valid" else "f"
        fits = isinstance(value, np.ndarray) and value.dtype.kind == kind and value.ndim == len(expected)
        if not fits or any(size is not None and n != sizes[size] for n, size in zip(value.shape, expected, strict=True)):
            raise ServerLost(f"policy server {self.client.url}: {name} of another shape or dtype than asked for")
        return _tensor(value).to(self._device)


def as_served(served: EnvSpec, spec: EnvSpec, needs_teacher_images: bool) -> EnvSpec:
    """Spec that an environment must match, derived from that of the server's teacher.

    Args:
        served: spec of the server's environment.
        spec: spec of the environment.
        needs_teacher_images: see `Teacher`; such a teacher does not read the student's observations.
    """
    if not needs_teacher_images:
        return served
    return served.model_copy(update={"observations": spec.observations, "state_names": spec.state_names})


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``remote:ws://HOST:PORT``; see `rpd.teachers.registry`.

    Raises:
        ConfigError: no server at the address, or one with another protocol.
    """
    client, chosen = _connect(argument, options)
    if "protocol" not in client.metadata:
        return OpenPITeacher(client, spec, device, parse_interface(chosen, client.url))
    _refuse_openpi_options(client, chosen)
    return RemoteTeacher(client, device)


def camera_request(argument: str | None, options: dict[str, str]) -> CameraRequest:
    """Cameras needed by the teacher behind the server; see `rpd.teachers.registry.camera_request`.

    Raises:
        ConfigError: see `from_string`.
    """
    client, chosen = _connect(argument, options)
    client.close()
    if "protocol" not in client.metadata:
        return parse_interface(chosen, client.url).camera_request
    _refuse_openpi_options(client, chosen)
    try:
        return _camera_request(client.metadata)
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
        assert isinstance(teacher, RemoteTeacher)
        return _describe_served(teacher, spec, instruction)
    finally:
        teacher.close()


def _describe_served(teacher: RemoteTeacher, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher behind `rpd serve`: both sides have the same environment."""
    facts = {
        "server": f"{teacher.client.url}, serves {teacher.served}",
        "made for": f"{teacher.spec.task} · {teacher.spec.embodiment.name}, {teacher.spec.control_hz:g} Hz",
        "memory": "per episode of each environment" if teacher.has_memory else "none",
        "output fields": ", ".join(sorted(teacher.output_fields)),
    }
    given = []
    for key in (*teacher.required, *teacher.optional):
        if key == "state":
            given.append(inputs.state(key, spec.state_names, "unchanged"))
        elif key == "privileged":
            given.append(
                Input(key, "the simulator's true poses", "if the environment provides them; only custom servers read them")
            )
        else:
            given.append(Input(key, key, f"uint8 {list(teacher.spec.observations[key].shape)}, unchanged"))
    size = _camera_request(teacher.client.metadata).image_size
    given += [inputs.image(f"view.{camera}", camera, size, "uint8, unchanged") for camera in teacher.cameras]
    given.append(inputs.prompt("instructions", instruction))
    described = describe_own_actions(facts, given, spec, teacher.name)
    try:
        teacher.check_env(spec)
    except SpecMismatch as error:
        return replace(described, refusal=str(error))
    return described


def _refuse_openpi_options(client: Client, chosen: RemoteOptions) -> None:
    names = chosen.model_dump(include=set(OPENPI_OPTIONS), exclude_none=True)
    if names:
        raise ConfigError(f"teacher remote: {', '.join(names)} only apply to openpi's servers; {client.url} is served by rpd")


def identity(argument: str | None, options: dict[str, str]) -> str | None:
    """Identity reported by the server; None if it reports none, like openpi's. See `rpd.teachers.registry.identity`.

    Raises:
        ConfigError: see `from_string`.
    """
    client, _ = _connect(argument, options)
    client.close()
    said = client.metadata.get("identity")
    return said if isinstance(said, str) else None


def _connect(argument: str | None, options: dict[str, str]) -> tuple[Client, RemoteOptions]:
    if argument is None:
        raise ConfigError("teacher 'remote' needs the address of a policy server, e.g. remote:ws://127.0.0.1:8000")
    chosen = parse_options(RemoteOptions, options, "remote")
    withheld = chosen.token == "withheld"
    token = None if withheld else read_token(chosen.token_file)
    remedy = f"a policy names this server: set {TOKEN_SERVERS}={argument} to trust it" if withheld else HOW_TO_SEND
    return Client(argument, token, chosen.timeout, chosen.retries, on_retry=LOG.warning, remedy=remedy), chosen


def _camera_request(metadata: Message) -> CameraRequest:
    request = metadata["camera_request"]
    return CameraRequest(tuple(request["cameras"]), request["image_size"])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """Copy into a tensor: received arrays are read-only."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.is_floating_point() else tensor
