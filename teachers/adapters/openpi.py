"""Use a policy behind openpi's server as a teacher: it returns actions for one observation at a time, without metadata.

An action mapping declares the units of its actions and its inputs (`rpd.teachers.vla.action_mapping`,
`rpd.teachers.adapters.served`): a shipped one (``libero``, ``droid``), or a file. Options of the teacher override parts of it:

| option | meaning |
|---|---|
| action_mapping | name or file; required |
| images | ``camera:key`` of each image, joined by ``+`` |
| state | parts of the state joined by ``+``, and ``:key``; ``none``: no state is sent |
| prompt | key of the instruction |
| n_action_steps | actions of a chunk that are executed before the next request |

For example ``remote:ws://host:8000,action_mapping=libero``. The first action of a chunk is the label.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.finite import clipped
from rpd.envs.specs import EnvSpec
from rpd.students.action_chunking import RecedingHorizon
from rpd.students.networks.distribution import executed
from rpd.teachers import inputs
from rpd.teachers.adapters.proprioception import Part, part
from rpd.teachers.adapters.remote_options import RemoteOptions
from rpd.teachers.adapters.served import Served, ServedImage, read_images, read_state, resize_with_pad
from rpd.teachers.base import CameraRequest, Description, Input, Teacher, TeacherOutput
from rpd.teachers.transport.client import Client
from rpd.teachers.vla.action_mapping import ActionMapping, connect, load_action_mapping, shipped
from rpd.teachers.vla.action_table import LEVELS, describe_teacher
from rpd.teachers.vla.images import camera_images

RENDERED = 224
"""Rendered size of the teacher's own cameras, pixels, unless its action mapping sets it."""
EXAMPLE = "state=eef_pos+eef_axis_angle+gripper_qpos, or state=none"


class Interface(NamedTuple):
    """Inputs of a policy and units of its actions, known before the environment."""

    action_mapping: ActionMapping
    served: Served

    @property
    def camera_request(self) -> CameraRequest:
        """Cameras that it needs."""
        cameras = tuple(dict.fromkeys(image.camera for image in (self.served.images or {}).values()))
        return CameraRequest(cameras, self.action_mapping.image_size or RENDERED) if cameras else CameraRequest()


def parse_interface(options: RemoteOptions, url: str) -> Interface:
    """Combine an action mapping with the options that override it.

    Raises:
        ConfigError: no or an invalid action mapping, or an undeclared state.
    """
    if options.action_mapping is None:
        raise ConfigError(
            f"teacher remote:{url}: the units of its actions are unknown: add action_mapping=, one of "
            f"{', '.join(shipped())}, or a file"
        )
    action_mapping = load_action_mapping(options.action_mapping)
    _refuse_unused(action_mapping, options.action_mapping, url)
    served = action_mapping.server or Served()
    changes: dict[str, object] = {}
    if served.images is None and action_mapping.camera is not None:
        changes["images"] = {"observation/image": ServedImage(camera=action_mapping.camera)}
    if options.images is not None:
        changes["images"] = read_images(options.images, served.images or {})
    if options.state is not None:
        changes["state"] = read_state(options.state)
    changes |= {key: value for key in ("prompt", "n_action_steps") if (value := getattr(options, key)) is not None}
    served = served.model_copy(update=changes)
    if served.state is None:
        raise ConfigError(
            f"teacher remote:{url}: its state is not declared (action mapping "
            f"{options.action_mapping} has no server.state): "
            f"add e.g. {EXAMPLE}"
        )
    if (mistake := served.mistake()) is not None:
        raise ConfigError(f"teacher remote:{url}: {mistake}")
    return Interface(action_mapping, served)


def _refuse_unused(action_mapping: ActionMapping, name: str, url: str) -> None:
    """Refuse fields of an action mapping that only apply to models loaded here, and not to a server.

    Raises:
        ConfigError: names the field.
    """
    for field in ("crop", "unnorm_key"):
        if getattr(action_mapping, field) not in (None, 1):
            raise ConfigError(
                f"teacher remote:{url}: action mapping {name} has {field}: {getattr(action_mapping, field)}, which is set by "
                f"the server and "
                f"would be ignored here: use an action mapping without {field}"
            )


class OpenPITeacher(Teacher):
    """Labels with the actions of a policy served by openpi, with one request per observation.

    Args:
        client: the connection.
        spec: the environment.
        device: device of the labels.
        how: inputs of the policy and units of its actions.

    Raises:
        ConfigError: the student has several cameras and none is chosen, or a part of the state is unknown.
        SpecMismatch: the environment does not provide a part of the state.
    """

    output_fields = frozenset({"mean"})
    needs_teacher_images = True
    runs_remotely = True

    def __init__(self, client: Client, spec: EnvSpec, device: torch.device, interface: Interface) -> None:
        self.name = f"remote:{client.url}"
        self.client, self.interface, self._spec, self._device = client, interface, spec, device
        self.images = interface.served.images if interface.served.images is not None else _student_images(spec)
        self.parts: dict[str, list[Part]] = {
            key: [part(name, spec) for name in names] for key, names in (interface.served.state or {}).items()
        }
        self._discrete = torch.tensor(spec.action.discrete, device=device)
        self.chunks = RecedingHorizon(interface.served.n_action_steps)

    def check_env(self, spec: EnvSpec) -> None:
        """Send one request with an observation of zeros, as openpi's metadata do not describe actions.

        Raises:
            SpecMismatch: the policy cannot read the observation, its actions differ from the environment's, or its chunks are
                shorter than the number of actions to execute.
        """
        sizes = {key: image.size or RENDERED for key, image in self.images.items()}
        blank = {key: np.zeros((size, size, 3), np.uint8) for key, size in sizes.items()}
        state = np.zeros((1, len(spec.state_names)), np.float32)
        blank |= {key: values[0] for key, values in self._states(state).items()}
        try:
            chunk = self._ask(blank, "")
        except ServerLost as error:
            raise SpecMismatch(f"teacher '{self.name}' cannot read an observation of {spec.task}: {error}") from None
        self._map = connect(self.interface.action_mapping, chunk.shape[1], spec, self.name)
        if len(chunk) < self.chunks.steps:
            raise SpecMismatch(
                f"teacher '{self.name}' answers with chunks of {len(chunk)} actions, and {self.chunks.steps} are to be "
                f"executed: add n_action_steps={len(chunk)} or less"
            )

    @property
    def has_memory(self) -> bool:
        """Whether more than one action of a chunk is executed."""
        return self.chunks.steps > 1

    def new_session(self) -> OpenPITeacher:
        """See `Teacher.new_session`: opens another connection."""
        session = copy.copy(self)
        session.client, session.chunks = self.client.another(), RecedingHorizon(self.chunks.steps)
        return session

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Send one request per observation.

        Raises:
            ConfigError: images of one of the teacher's cameras are missing.
            ServerLost: no answer, or one without actions.
        """
        chunks = self._draw(self._read(obs), instructions, range(len(instructions)))
        mean = clipped(chunks[:, 0])
        return TeacherOutput(mean, valid=torch.ones(len(mean), dtype=torch.bool, device=self._device))

    def act(self, obs: TensorDict, instructions: list[str]) -> Tensor:
        """Execute chunks of actions [N, A]; see `label`."""
        arrays = self._read(obs)

        def draw(rows: Tensor) -> Tensor:
            return self._draw(arrays, instructions, rows.tolist())

        return executed(self.chunks.next(len(instructions), self._device, draw), self._discrete)

    def reset(self, mask: Tensor) -> None:
        """Drop the chunks of episodes that ended."""
        self.chunks.reset(mask.to(self._device))

    def state_dict(self) -> dict[str, Tensor]:
        """The chunks in execution."""
        return self.chunks.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        self.chunks.load_state_dict({name: tensor.to(self._device) for name, tensor in state.items()})

    @property
    def device(self) -> torch.device:
        """Device of the labels."""
        return self._device

    def _read(self, obs: TensorDict) -> dict[str, np.ndarray]:
        """Arrays to send for observations [N], by key."""
        arrays = self._states(obs["state"].cpu().numpy()) if self.parts else {}
        for key, image in self.images.items():
            images = camera_images(obs, image.camera, self.name, "the policy").cpu().numpy()
            arrays[key] = images if image.size is None else resize_with_pad(images, image.size)
        return arrays

    def _states(self, state: np.ndarray) -> dict[str, np.ndarray]:
        return {key: np.concatenate([part.read(state, self._spec) for part in parts], 1) for key, parts in self.parts.items()}

    def _draw(self, arrays: dict[str, np.ndarray], instructions: list[str], rows: range | list[int]) -> Tensor:
        """Chunks [K, H, A] for some observations, in the environment's action space."""
        chunks = [self._ask({key: values[i] for key, values in arrays.items()}, instructions[i]) for i in rows]
        if len({chunk.shape for chunk in chunks}) > 1:
            raise ServerLost(f"policy server {self.client.url}: chunks of different shapes")
        return torch.from_numpy(self._map.to_env(np.stack(chunks)).astype(np.float32)).to(self._device)

    def _ask(self, arrays: dict[str, np.ndarray], prompt: str) -> np.ndarray:
        """Chunk [H, A] for one observation, in the policy's own units."""
        answer = self.client.request({**arrays, self.interface.served.prompt: prompt})
        chunk = answer.get(self.interface.served.actions)
        if not isinstance(chunk, np.ndarray) or chunk.ndim != 2 or not len(chunk) or chunk.dtype.kind != "f":
            raise ServerLost(
                f"policy server {self.client.url}: an answer without {self.interface.served.actions} [horizon, dimensions]"
            )
        return chunk


def describe(teacher: OpenPITeacher, spec: EnvSpec, instruction: str) -> Description:
    """Describe a teacher in an environment, see `rpd.teachers.registry.describe`.

    Raises:
        SpecMismatch: dimensions, units, frame or rate differ from the environment's.
    """
    served, action_mapping = teacher.interface.served, teacher.interface.action_mapping
    given = [
        inputs.image(key, image.camera, action_mapping.image_size, "as rendered" if image.size is None else _sized(image.size))
        for key, image in teacher.images.items()
    ]
    for key, parts in teacher.parts.items():
        names = " + ".join(f"{part.name} ({', '.join(part.entries)})" for part in parts)
        count = sum(part.read(np.zeros((1, len(spec.state_names)), np.float32), spec).shape[1] for part in parts)
        given.append(Input(key, names, f"{count} numbers, not normalized"))
    given.append(inputs.prompt(served.prompt, instruction))
    facts = {
        "server": f"{teacher.client.url}, openpi's protocol, without metadata on actions",
        "not sent": inputs.groups([name for name in spec.state_names if name not in _input_keys(teacher)]) or "nothing",
        "label": "the first action of a chunk",
        "as a policy": f"executes {served.n_action_steps} action{'s' if served.n_action_steps > 1 else ''} of a chunk",
        "output fields": ", ".join(sorted(teacher.output_fields)),
    }
    dim = spec.action.dim if action_mapping.action is None else len(action_mapping.action)
    described = describe_teacher(facts, given, action_mapping, np.repeat(LEVELS[:, None], dim, 1), spec, teacher.name)
    try:
        teacher.check_env(spec)
    except SpecMismatch as error:
        return replace(described, refusal=str(error))
    return described


def _input_keys(teacher: OpenPITeacher) -> set[str]:
    return {entry for parts in teacher.parts.values() for part in parts for entry in part.entries}


def _sized(size: int) -> str:
    return f"uint8 [{size}, {size}, 3], resized with its aspect ratio kept"


def _student_images(spec: EnvSpec) -> dict[str, ServedImage]:
    """The student's camera, if it has exactly one."""
    seen = [key.removeprefix("image.") for key in spec.cameras]
    if len(seen) > 1:
        example = "+".join(f"{camera}:observation/{camera}" for camera in seen)
        raise ConfigError(f"teacher remote: the student has several cameras: name those of the teacher, e.g. images={example}")
    return {"observation/image": ServedImage(camera=seen[0], size=None)} if seen else {}
