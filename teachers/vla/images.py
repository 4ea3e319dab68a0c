"""What a teacher looks at among the observations."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from envs.errors import ConfigError


def shown(obs: TensorDict, camera: str, teacher: str, model: str) -> Tensor:
    """The images of a camera, uint8 [N, H, W, 3]: the teacher's own where there are, else the student's.

    Args:
        obs: what is shown.
        camera: its name in the environment.
        teacher: its name, for messages.
        model: what needs them, for messages, e.g. ``"OpenVLA"``.

    Raises:
        ConfigError: there are none, or they are no images.
    """
    key = image_key(obs, camera, teacher)
    check_images(obs[key], f"{key}, shown to teacher {teacher},", model)
    return obs[key]


def check_images(images: Tensor, name: str, model: str) -> None:
    """Refuse what is not a batch of images.

    Raises:
        ConfigError: naming the images, what they are and what they should be.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ConfigError(
            f"{name} is {str(images.dtype).removeprefix('torch.')} {list(images.shape)}; {model} needs uint8 [N, H, W, 3]"
        )


def image_key(obs: TensorDict, camera: str, teacher: str) -> str:
    """The key of a camera's images: the teacher's own where there are, else the student's.

    Args:
        obs: what is shown.
        camera: its name in the environment.
        teacher: its name, for messages.

    Raises:
        ConfigError: there are none.
    """
    names = [str(key) for key in obs.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
    key = next((key for key in (f"view.{camera}", f"image.{camera}") if key in names), None)
    if key is None:
        there = ", ".join(sorted(name for name in names if name.startswith(("view.", "image."))))
        raise ConfigError(
            f"teacher {teacher} looks through camera '{camera}', but is shown {there or 'no image'}: "
            f"add --env.teacher-cameras {camera}, or camera= to the teacher's name"
        )
    return key
