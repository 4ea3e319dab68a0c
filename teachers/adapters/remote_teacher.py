"""A teacher behind one connection to `rpd serve`."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.specs import EnvSpec
from rpd.teachers.base import CameraRequest, Teacher, TeacherOutput
from rpd.teachers.transport.client import PROTOCOL, Client
from rpd.teachers.transport.codec import Message

LOG = logging.getLogger(__name__)

# Shapes of the fields of a label; None: any size.
FIELDS: dict[str, tuple[str | None, ...]] = {
    "mean": ("N", "A"), "valid": ("N",), "std": ("N", "A"), "samples": ("N", None, "A"), "bin_logits": ("N", "A", None),
    "log_prob": ("N", "A"),
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
            self.max_rows = int(metadata["limits"]["rows"])
            self.cameras = camera_request_of(metadata).cameras
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

    def new_session(self, lazy: bool = False) -> RemoteTeacher | None:
        """See `Teacher.new_session`: opens another connection; see `Client.another`."""
        return None if self._exclusive else RemoteTeacher(self.client.another(lazy), self._device)

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
        if together and rows > self.max_rows:
            raise ConfigError(
                f"teacher {self.name} has memory per environment, and its server takes {self.max_rows} at once, not {rows}: "
                "lower env.num_envs, or serve with a larger --max-rows"
            )
        return [slice(start, start + self.max_rows) for start in range(0, rows, self.max_rows)]

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


def camera_request_of(metadata: Message) -> CameraRequest:
    """Cameras of a server's metadata.

    Raises:
        KeyError, TypeError: malformed metadata.
    """
    request = metadata["camera_request"]
    return CameraRequest(tuple(request["cameras"]), request["image_size"])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """Copy into a tensor: received arrays are read-only."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.is_floating_point() else tensor
