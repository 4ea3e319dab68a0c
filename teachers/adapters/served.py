"""Inputs of a policy behind a third-party server, and execution of its chunks.

A section of an action mapping, see `rpd.teachers.vla.action_mapping`:

server:
  images:                                     # keys of its observation: camera of the environment, size in pixels
    observation/image: {camera: agentview, size: 224}
  state:                                      # keys: parts of the state, see `rpd.teachers.adapters.proprioception`
    observation/state: [eef_pos, eef_axis_angle, gripper_qpos]
  prompt: prompt                              # key of the instruction
  actions: actions                            # key of the chunk [H, A] in the answer
  n_action_steps: 5                           # actions of a chunk that are executed before the next request
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rpd.envs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE = 224
"""Input size of openpi's models, pixels."""


class ServedImage(BaseModel):
    """One image of an observation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: str
    """Camera of the environment."""
    size: int | None = Field(SIZE, ge=8, le=2048)
    """Height and width when sent, pixels, with black borders if not square; None (in YAML: null): as rendered."""


class Served(BaseModel):
    """Server section of an action mapping; see the module docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: dict[str, ServedImage] | None = None
    """Images by key of the observation; None: not declared."""
    state: dict[str, tuple[str, ...]] | None = None
    """Names of state parts by key of the observation; None: not declared."""
    prompt: str = "prompt"
    """Key of the instruction."""
    actions: str = "actions"
    """Key of the chunk in the answer."""
    n_action_steps: int = Field(1, ge=1)
    """Actions of a chunk that are executed before the next request."""

    @model_validator(mode="after")
    def _unambiguous(self) -> Served:
        if (mistake := self.mistake()) is not None:
            raise ValueError(mistake)
        return self

    def mistake(self) -> str | None:
        """Describe an empty or duplicate key of the observation; None: the keys are valid."""
        keys = [*(self.images or {}), *(self.state or {}), self.prompt]
        if twice := [key for key in keys if keys.count(key) > 1]:
            return f"key '{twice[0]}' is given to two of images, state and prompt: only one of them would be sent"
        if not all(keys):
            return "a key of the observation is empty"
        empty = [key for key, parts in (self.state or {}).items() if not parts]
        return f"state '{empty[0]}' has no parts: name its parts, or leave it out" if empty else None


def read_images(option: str, known: Mapping[str, ServedImage]) -> dict[str, ServedImage]:
    """Parse the option ``images``, ``camera:key`` joined by ``+``.

    Args:
        option: e.g. ``front:observation/image+wrist:observation/wrist_image``.
        known: images of the action mapping, by key, for their sizes.

    Raises:
        ConfigError: a part is not ``camera:key``.
    """
    pairs = [part.partition(":") for part in option.split("+")]
    if not all(camera and key for camera, _, key in pairs):
        raise ConfigError(f"teacher remote: images={option}: write camera:key, e.g. images=front:observation/image")
    return {key: ServedImage(camera=camera, size=known[key].size if key in known else SIZE) for camera, _, key in pairs}


def read_state(option: str) -> dict[str, tuple[str, ...]]:
    """Parse the option ``state``: names of parts joined by ``+``, then a colon and the key; or ``none``.

    Raises:
        ConfigError: an empty name.
    """
    if option == "none":
        return {}
    parts, _, key = option.partition(":")
    names = tuple(parts.split("+"))
    if not all(names):
        raise ConfigError(
            f"teacher remote: state={option}: write part+part:key, e.g. state=eef_pos+gripper_qpos:observation/state"
        )
    return {key or "observation/state": names}


def resize_with_pad(images: np.ndarray, size: int) -> np.ndarray:
    """Resize images uint8 [N, H, W, 3] to [N, size, size, 3], bilinear, with black borders if they are not square.

    Bit-identical to openpi_client.image_tools.resize_with_pad.
    """
    from PIL import Image

    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    ratio = max(width / size, height / size)
    high, wide = int(height / ratio), int(width / ratio)
    top, left = int((size - high) / 2), int((size - wide) / 2)
    canvas = np.zeros((len(images), size, size, 3), np.uint8)
    for canvas_row, image in zip(canvas, images, strict=True):
        small = Image.fromarray(image).resize((wide, high), Image.Resampling.BILINEAR)
        canvas_row[top : top + high, left : left + wide] = np.asarray(small)
    return canvas
