"""A policy behind openpi's server as a teacher: it gives actions, one observation at a time, and nothing about itself.

The wire has no names that all its policies share, so the teacher's options say how this one calls what it reads:

| option | default | meaning |
|---|---|---|
| images | ``observation/image``, if the student has one camera | ``camera:key`` of each, joined by ``+`` |
| state | ``observation/state`` | key of the state |
| prompt | ``prompt`` | key of the instruction |

For example ``remote:ws://host:8000,images=front:observation/image+wrist:observation/wrist_image``. Cameras are the
teacher's own (``env.teacher_cameras``) or the student's. Images are sent as they are rendered, uint8 [H, W, 3].

The first action of each chunk is the label. It has to be in the environment's normalised action space, with +1 to open
the gripper.
"""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError, ServerLost, SpecMismatch
from envs.specs import EnvSpec
from teachers.base import Teacher, TeacherOutput
from teachers.wire.client import Client

KEYS = ("images", "state", "prompt")


class OpenPITeacher(Teacher):
    """Labels with the actions of a policy that openpi serves. Each label is as many round trips as observations."""

    provides = frozenset({"mean"})
    looks = True
    elsewhere = True

    def __init__(
        self,
        client: Client,
        spec: EnvSpec,
        device: torch.device,
        images: str | None = None,
        state: str = "observation/state",
        prompt: str = "prompt",
    ) -> None:
        """Take over a connection; see the table above.

        Raises:
            ConfigError: the student has several cameras and none is named, or a name is not ``camera:key``.
        """
        self.name = f"remote:{client.url}"
        self.client, self._device = client, device
        self._cameras, self._state, self._prompt = _cameras(images, spec), state, prompt

    def check_env(self, spec: EnvSpec) -> None:
        """Ask once, about an observation that is all zeros: openpi's metadata say nothing about actions.

        Raises:
            SpecMismatch: the policy cannot read the observation, or answers with another number of dimensions.
        """
        blank = {key: np.zeros((224, 224, 3), np.uint8) for key in self._cameras.values()}
        blank[self._state] = np.zeros(spec.observations["state"].shape, np.float32)
        try:
            dim = len(self._ask(blank, ""))
        except ServerLost as error:
            raise SpecMismatch(f"teacher '{self.name}' cannot read an observation of {spec.task}: {error}") from None
        if dim != spec.action.dim:
            raise SpecMismatch(
                f"teacher '{self.name}' does not fit environment: action dimensions differ: "
                f"its actions have {dim}; environment ({spec.task}) has {spec.action.dim}"
            )

    def label(self, obs: TensorDict, instructions: list[str], student_action: Tensor | None = None) -> TeacherOutput:
        """Ask about each observation.

        Raises:
            ConfigError: there is no image of one of the teacher's cameras.
            ServerLost: there is no answer, or none with actions.
        """
        arrays = {key: self._images(obs, camera) for camera, key in self._cameras.items()}
        arrays[self._state] = obs["state"].cpu().numpy()
        rows = [self._ask({key: a[i] for key, a in arrays.items()}, prompt) for i, prompt in enumerate(instructions)]
        mean = torch.from_numpy(np.stack(rows)).to(self._device).clamp(-1, 1)
        return TeacherOutput(mean, valid=torch.ones(len(mean), dtype=torch.bool, device=self._device))

    @property
    def device(self) -> torch.device:
        """Where labels are wanted."""
        return self._device

    def _images(self, obs: TensorDict, camera: str) -> np.ndarray:
        """What a camera sees, uint8 [N, H, W, 3]: the teacher's own, else the student's."""
        images = obs.get(f"view.{camera}", obs.get(f"image.{camera}", None))
        if images is None:
            raise ConfigError(f"teacher {self.name} looks through camera '{camera}': add --env.teacher-cameras {camera}")
        return images.cpu().numpy()

    def _ask(self, arrays: dict[str, np.ndarray], prompt: str) -> np.ndarray:
        """The action [A] for one observation."""
        answer = self.client.request({**arrays, self._prompt: prompt})
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not len(actions):
            raise ServerLost(f"policy server {self.client.url}: an answer without actions [horizon, dimensions]")
        return actions[0].astype(np.float32)


def _cameras(images: str | None, spec: EnvSpec) -> dict[str, str]:
    """The server's key of each camera: ``{"front": "observation/image"}``."""
    seen = [key.removeprefix("image.") for key in spec.cameras]
    if images is None and len(seen) <= 1:
        return dict.fromkeys(seen, "observation/image")
    if images is None:
        example = "+".join(f"{camera}:observation/{camera}" for camera in seen)
        raise ConfigError(f"teacher remote: the student has several cameras: name those of the teacher, e.g. images={example}")
    return named_cameras(images)


def named_cameras(images: str | None) -> dict[str, str]:
    """Read the option ``images``: the server's key of each camera that it names.

    Raises:
        ConfigError: a part of it is not ``camera:key``.
    """
    pairs = [part.partition(":") for part in images.split("+")] if images else []
    if not all(camera and key for camera, _, key in pairs):
        raise ConfigError(f"teacher remote: images={images}: write camera:key, e.g. images=front:observation/image")
    return {camera: key for camera, _, key in pairs}
