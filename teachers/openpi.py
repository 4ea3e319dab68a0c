"""A policy behind openpi's server as a teacher: it gives actions, one observation at a time, and nothing about itself.

The wire has no names that all its policies share, so the teacher's options say how this one calls what it reads:

| option | default | meaning |
|---|---|---|
| images | ``observation/image``, with one camera | ``camera:key`` of each, joined by ``+`` |
| state | ``observation/state`` | key of the state |
| prompt | ``prompt`` | key of the instruction |

For example ``remote:ws://host:8000,images=front:observation/image+wrist:observation/wrist_image``.

Images are sent as they are rendered, uint8 [H, W, 3]. The first action of each chunk is the label. It has to be in the
environment's normalised action space, with +1 to open the gripper.
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
            ConfigError: a camera that the environment does not have, or has and that is not named.
        """
        self.name = f"remote:{client.url}"
        self.client, self._device, self._prompt = client, device, prompt
        self._keys = _image_keys(images, spec) | ({"state": state} if "state" in spec.observations else {})

    def check_env(self, spec: EnvSpec) -> None:
        """Ask once, about an observation that is all zeros: openpi's metadata say nothing about actions.

        Raises:
            SpecMismatch: the policy cannot read the observation, or answers with another number of dimensions.
        """
        blank = {key: np.zeros(spec.observations[key].shape, spec.observations[key].dtype) for key in self._keys}
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
            ServerLost: there is no answer, or none with actions.
        """
        arrays = {key: obs[key].cpu().numpy() for key in self._keys}
        rows = [self._ask({key: a[i] for key, a in arrays.items()}, prompt) for i, prompt in enumerate(instructions)]
        mean = torch.from_numpy(np.stack(rows)).to(self._device).clamp(-1, 1)
        return TeacherOutput(mean, valid=torch.ones(len(mean), dtype=torch.bool, device=self._device))

    @property
    def device(self) -> torch.device:
        """Where labels are wanted."""
        return self._device

    def _ask(self, arrays: dict[str, np.ndarray], prompt: str) -> np.ndarray:
        """The action [A] for one observation."""
        answer = self.client.request({**{self._keys[key]: a for key, a in arrays.items()}, self._prompt: prompt})
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not len(actions):
            raise ServerLost(f"policy server {self.client.url}: an answer without actions [horizon, dimensions]")
        return actions[0].astype(np.float32)


def _image_keys(images: str | None, spec: EnvSpec) -> dict[str, str]:
    """The server's key of each camera: ``{"image.front": "observation/image"}``."""
    cameras = [key.removeprefix("image.") for key in spec.cameras]
    if images is None and len(cameras) <= 1:
        return {f"image.{camera}": "observation/image" for camera in cameras}
    named = dict(part.partition(":")[::2] for part in (images or "").split("+") if part)
    if sorted(named) != cameras or not all(named.values()):
        example = "+".join(f"{camera}:observation/{camera}" for camera in cameras)
        raise ConfigError(
            f"teacher remote: images={images or ''}: name the server's key of each camera of {spec.task}, "
            + (f"e.g. images={example}" if cameras else "which has none: leave it out, or add --env.obs image")
        )
    return {f"image.{camera}": key for camera, key in named.items()}
