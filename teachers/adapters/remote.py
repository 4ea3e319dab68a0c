"""A teacher in another process, on this machine or another: the client of `rpd serve`, and of openpi's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError, ServerLost, SpecMismatch
from envs.specs import EnvSpec
from teachers.base import Teacher, TeacherOutput, Views
from teachers.openpi import KEYS, OpenPITeacher, named_cameras
from teachers.registry import Options, parse_options
from teachers.wire.client import PROTOCOL, Client, read_token
from teachers.wire.codec import Message

# Shapes of the fields of a label; None: any size.
FIELDS: dict[str, tuple[str | None, ...]] = {
    "mean": ("N", "A"), "valid": ("N",), "std": ("N", "A"), "samples": ("N", None, "A"), "bin_logits": ("N", "A", None),
    "log_prob": ("N",),
}  # fmt: skip


class RemoteOptions(Options):
    """What follows the address. The last three are for openpi's servers, see `teachers.openpi`."""

    token_file: Path | None = None
    """File with the server's token; default: the environment variable RPD_SERVE_TOKEN."""
    timeout: float = Field(60.0, gt=0)
    """Seconds to wait for an answer."""
    retries: int = Field(5, ge=0)
    """How often to ask again, over a new connection, before the run stops."""
    images: str | None = None
    state: str | None = None
    prompt: str | None = None


class RemoteTeacher(Teacher):
    """Labels with what `rpd serve` answers. The server's random state is its own, and not part of a checkpoint."""

    elsewhere = True

    def __init__(self, client: Client, device: torch.device) -> None:
        """Take over a connection.

        Args:
            client: connected to a server that speaks our protocol.
            device: where labels are wanted.

        Raises:
            ConfigError: its metadata are not those of this version.
        """
        metadata = client.metadata
        if metadata.get("protocol") != PROTOCOL:
            raise ConfigError(f"policy server {client.url}: it speaks {metadata.get('protocol')!r}, this version {PROTOCOL!r}")
        try:
            self.spec = EnvSpec.model_validate(metadata["spec"])
            self.provides = frozenset(metadata["provides"]) & FIELDS.keys()
            self.required, self.optional = tuple(metadata["observations"]), tuple(metadata["optional"])
            self.served = str(metadata["name"])
            self.looks, self._remembers = bool(metadata["looks"]), bool(metadata["remembers"])
            self.wants_all = bool(metadata["wants_all"])
            self.cameras = _views(metadata).cameras
            self.bin_edges = _tensor(metadata["bin_edges"]).to(device) if "bin_edges" in metadata else None
        except (KeyError, TypeError, ValidationError) as error:
            raise ConfigError(f"policy server {client.url}: bad metadata: {' '.join(str(error).split())[:200]}") from None
        self.client, self._device = client, device
        self.name = f"remote:{client.url}"

    def check_env(self, spec: EnvSpec) -> None:
        """Compare the two specs, and have the teacher behind the server refuse what it would refuse here.

        Raises:
            SpecMismatch: naming both sides.
        """
        theirs = self.spec
        if self.looks:  # what the student sees is none of its business, but where it is the same state
            theirs = theirs.model_copy(update={"observations": spec.observations, "state_names": spec.state_names})
            if spec.state_names != self.spec.state_names:
                self.optional = tuple(key for key in self.optional if key != "state")
        try:
            spec.check_policy(theirs)
            self.client.request({"request": "check", "spec": spec.model_dump(mode="json")})
        except (SpecMismatch, ServerLost) as error:
            raise SpecMismatch(f"teacher '{self.name}', which serves {self.served}: {error}") from None

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Ask the server.

        Raises:
            ServerLost: there is no answer, or it is none to this question.
        """
        request: Message = {"request": "label", "obs": self._arrays(obs), "instructions": instructions}
        if student_action is not None:
            request["student_action"] = _array(student_action)
        if self.wanted != self.provides:
            request["wanted"] = sorted(self.wanted)
        answer = self.client.request(request)
        given = {name: answer[name] for name in FIELDS if name in answer}
        if not {"mean", "valid"} <= given.keys():
            raise ServerLost(f"policy server {self.client.url}: a label without mean and valid")
        sizes = {"N": len(instructions), "A": self.spec.action.dim}
        return TeacherOutput(**{name: self._field(name, value, sizes) for name, value in given.items()})

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Ask the server for actions, which need not be the mean of its labels."""
        answer = self.client.request({**self._arrays(obs), "prompt": instructions})
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.shape[::2] != (len(instructions), self.spec.action.dim):
            raise ServerLost(f"policy server {self.client.url}: actions of another shape than asked for")
        return _tensor(actions[:, 0]).to(self._device)

    def reset(self, mask: Tensor) -> None:
        """Pass it on, if the teacher behind the server remembers anything."""
        if self._remembers:
            self.client.request({"request": "reset", "mask": _array(mask)})

    def seed(self, seed: int) -> None:
        """Make what is random about the teacher behind the server reproducible, as long as nobody else asks it."""
        self.client.request({"request": "seed", "seed": seed})

    @property
    def device(self) -> torch.device:
        """Where labels are wanted."""
        return self._device

    def _arrays(self, obs: TensorDict) -> dict[str, np.ndarray]:
        """What the server reads of an observation."""
        there = [str(key) for key in obs.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
        images = [key for key in there if self.looks and key.startswith(("view.", "image."))]
        if self.cameras:  # its own view of a camera before the student's; which one is missing, the server says
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


def from_string(argument: str | None, options: dict[str, str], spec: EnvSpec, device: torch.device) -> Teacher:
    """Build ``remote:ws://HOST:PORT``; see `teachers.registry`.

    Raises:
        ConfigError: no server there, or not one that we understand.
    """
    client, chosen = _connect(argument, options)
    names = chosen.model_dump(include=set(KEYS), exclude_none=True)
    if "protocol" not in client.metadata:
        return OpenPITeacher(client, spec, device, **names)
    if names:
        raise ConfigError(f"teacher remote: {', '.join(names)} only apply to openpi's servers; {client.url} is served by rpd")
    return RemoteTeacher(client, device)


def needs(argument: str | None, options: dict[str, str]) -> Views:
    """The cameras that the teacher behind the server looks through; see `teachers.registry.needs`.

    Raises:
        ConfigError: see `from_string`.
    """
    client, chosen = _connect(argument, options)
    client.close()
    if "protocol" not in client.metadata:
        return Views(tuple(named_cameras(chosen.images)))
    try:
        return _views(client.metadata)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"policy server {client.url}: bad metadata: {error!r}") from None


def _connect(argument: str | None, options: dict[str, str]) -> tuple[Client, RemoteOptions]:
    if argument is None:
        raise ConfigError("teacher 'remote' needs the address of a policy server, e.g. remote:ws://127.0.0.1:8000")
    chosen = parse_options(RemoteOptions, options, "remote")
    return Client(argument, read_token(chosen.token_file), chosen.timeout, chosen.retries, on_retry=_say), chosen


def _views(metadata: Message) -> Views:
    views = metadata["views"]
    return Views(tuple(views["cameras"]), views["image_size"])


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of its own: what was received inline cannot be written to."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.is_floating_point() else tensor
