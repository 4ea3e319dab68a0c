"""Select and check a teacher's images among the observations."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.errors import ConfigError


def camera_images(obs: TensorDict, camera: str, teacher: str, model: str) -> Tensor:
    """Images of a camera, uint8 [N, H, W, 3]: the teacher's own if present, else the student's.

    Args:
        obs: the observations.
        camera: camera of the environment.
        teacher: its name, for messages.
        model: name of the model, for messages, e.g. ``"OpenVLA"``.

    Raises:
        ConfigError: no images of the camera, or not images.
    """
    key = image_key(obs, camera, teacher)
    check_images(obs[key], f"{key}, shown to teacher {teacher},", model)
    return obs[key]


def check_images(images: Tensor, name: str, model: str) -> None:
    """Refuse anything but a batch of images.

    Raises:
        ConfigError: names the images, their shape and dtype, and the expected ones.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ConfigError(
            f"{name} is {str(images.dtype).removeprefix('torch.')} {list(images.shape)}; {model} needs uint8 [N, H, W, 3]"
        )


def image_key(obs: TensorDict, camera: str, teacher: str) -> str:
    """Key of a camera's images: the teacher's own if present, else the student's.

    Args:
        obs: the observations.
        camera: camera of the environment.
        teacher: its name, for messages.

    Raises:
        ConfigError: no images of the camera.
    """
    names = [str(key) for key in obs.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
    key = next((key for key in (f"view.{camera}", f"image.{camera}") if key in names), None)
    if key is None:
        there = ", ".join(sorted(name for name in names if name.startswith(("view.", "image."))))
        raise ConfigError(
            f"teacher {teacher} needs camera '{camera}', but the observations have {there or 'no image'}: "
            f"add --env.teacher-cameras {camera}, or camera= to the teacher's name"
        )
    return key


def describe_crop(crop: float | None) -> str:
    """Describe the part of an image that the teacher's model gets.

    Args:
        crop: fraction of the area; None: unknown, use all.
    """
    if crop is None:
        return "the whole image (unknown whether training cropped it; if so, add crop=0.9)"
    return "the whole image" if crop == 1 else f"middle {crop:.0%} of the area"
