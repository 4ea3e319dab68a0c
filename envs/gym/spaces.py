"""Gymnasium's spaces as ours: a state vector with names, images [H, W, 3], actions in [-1, 1].

Arrays are batches [N, ...] throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image

from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec

MAX_SCALE = 1e6
"""Largest bound of an action; larger ones mean that there is none."""
MAX_STATE = 2**16
_SIDE = 8
"""Smallest height and width of an image: smaller arrays of bytes are numbers."""
_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
Path = tuple[Any, ...]


class Observations:
    """Layout of an observation space.

    Nested Dict and Tuple spaces are flattened by name: the entries of ``desired_goal`` are ``desired_goal.0``, .... A Box of
    bytes with two or three dimensions is an image, with one or three channels, first or last.

    Attributes:
        names: one name per entry of the state vector, S.
        images: space of each image, by camera.

    Raises:
        ConfigError: a space that is not supported; names it.
    """

    def __init__(self, task: str, space: spaces.Space | None) -> None:
        if space is None:
            raise ConfigError(f"{task} has no observation_space: its observations have no shape")
        self._task, self._space = task, space
        self._vectors: list[tuple[Path, spaces.Space]] = []
        self._cameras: dict[str, tuple[Path, spaces.Space]] = {}
        names: list[str] = []
        for path, leaf in _leaves(space):
            name = ".".join(map(str, path)) or "obs"
            if not isinstance(leaf, _FLAT):
                raise ConfigError(f"{task}: observation '{name}' is {type(leaf).__name__}; supported: {_listed(_FLAT)}")
            if _is_image(leaf):
                _check_channels(task, name, leaf)
                self._cameras["_".join(map(str, path)) or "pixels"] = path, leaf
            else:
                self._vectors.append((path, leaf))
                names += [f"{name}.{i}" for i in range(spaces.flatdim(leaf))]
        if len(names) > MAX_STATE:
            raise ConfigError(f"{task}: its state has {len(names):,} numbers, more than {MAX_STATE:,}")
        self.names = tuple(names)
        self.images = {camera: leaf for camera, (_, leaf) in self._cameras.items()}

    def check(self, obs: Any) -> None:
        """Compare one observation, not a batch, with the space.

        Raises:
            ConfigError: a missing key or another shape.
        """
        for path, leaf in (*self._vectors, *self._cameras.values()):
            name = ".".join(map(str, path)) or "obs"
            try:
                shape = np.shape(_at(obs, path))
            except (KeyError, IndexError, TypeError):
                raise ConfigError(f"{self._task}: its observation has no '{name}', and its observation_space has") from None
            if shape != leaf.shape:
                raise ConfigError(
                    f"{self._task}: observation '{name}' has shape {shape}, and in observation_space {leaf.shape}"
                )

    def state(self, obs: Any) -> np.ndarray:
        """State vectors [N, S] float32 of a batch of observations."""
        parts = [_rows(leaf, np.asarray(_at(obs, path))) for path, leaf in self._vectors]
        count = len(_at(obs, _first_path(self._space)))
        return np.concatenate(parts, axis=1) if parts else np.zeros((count, 0), np.float32)

    def image(self, obs: Any, camera: str, size: int) -> np.ndarray:
        """Images [N, size, size, 3] uint8 of a camera."""
        return np.stack([square(frame, size) for frame in np.asarray(_at(obs, self._cameras[camera][0]))])

    def size(self, camera: str) -> int:
        """Smaller side of a camera's image, pixels."""
        shape = self.images[camera].shape
        assert shape is not None
        return int(min(shape[1:] if len(shape) == 3 and shape[0] in (1, 3) else shape[:2]))


class Actions:
    """Affine map of [-1, 1] to a bounded Box of numbers.

    Attributes:
        spec: names and scales.

    Raises:
        ConfigError: another space, or a Box without bounds.
    """

    def __init__(self, task: str, space: spaces.Space | None) -> None:
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ConfigError(f"{task}: actions are {space}, and policies act with real numbers: a bounded Box is needed")
        self._low, self._high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
        bad = np.flatnonzero(~((np.abs(self._low) <= MAX_SCALE) & (np.abs(self._high) <= MAX_SCALE) & (self._low < self._high)))
        if len(bad):
            low, high = self._low[bad[0]], self._high[bad[0]]
            raise ConfigError(
                f"{task}: action {bad[0]} is in [{low:g}, {high:g}], and +-1 needs bounds: wrap the environment with "
                "gymnasium.wrappers.RescaleAction, or give its Box bounds"
            )
        self._shape, self._dtype = space.shape, space.dtype
        self._center, self._scale = (self._high + self._low) / 2, (self._high - self._low) / 2
        self.spec = ActionSpec(
            names=tuple(f"action.{i}" for i in range(len(self._low))),
            units=("",) * len(self._low),
            scale=tuple(self._scale.tolist()),
            discrete=(False,) * len(self._low),
            frame="environment",
            center=tuple(self._center.tolist()) if self._center.any() else (),
        )

    def physical(self, action: np.ndarray) -> np.ndarray:
        """The environment's actions [N, ...] from actions [N, A] in [-1, 1]."""
        values = np.clip(self._center + self._scale * action.astype(np.float64), self._low, self._high)
        return values.reshape(len(action), *self._shape).astype(self._dtype)


def square(frame: np.ndarray, size: int) -> np.ndarray:
    """A frame [H, W], [H, W, C] or [C, H, W] with 1 or 3 channels as [size, size, 3] uint8; not square: it is stretched."""
    if frame.ndim == 3 and frame.shape[0] in (1, 3) and frame.shape[2] not in (1, 3):
        frame = frame.transpose(1, 2, 0)
    if frame.ndim == 2:
        frame = frame[..., None]
    frame = np.broadcast_to(frame, (*frame.shape[:2], 3)).astype(np.uint8)
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BILINEAR))


def _leaves(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(part, (*path, index))
    else:
        yield path, space


def _first_path(space: spaces.Space) -> Path:
    return next(_leaves(space))[0]


def _at(obs: Any, path: Path) -> Any:
    for key in path:
        obs = obs[key]
    return obs


def _rows(space: spaces.Space, values: np.ndarray) -> np.ndarray:
    """Values [N, ...] of a space as numbers [N, D] float32; categories are one-hot."""
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return values.reshape(len(values), -1).astype(np.float32)
    return np.stack([np.asarray(spaces.flatten(space, value), np.float32) for value in values])


def _is_image(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    if len(space.shape) == 3:
        return sorted(space.shape)[1] >= _SIDE
    return len(space.shape) == 2 and min(space.shape) >= _SIDE


def _check_channels(task: str, name: str, space: spaces.Space) -> None:
    shape = space.shape
    assert shape is not None
    if len(shape) == 3 and shape[2] not in (1, 3) and shape[0] not in (1, 3):
        raise ConfigError(
            f"{task}: image '{name}' has shape {list(shape)}; supported: 1 or 3 channels, first or last, and frames that are "
            "not stacked: add --env.frame-stack for that"
        )


def _listed(kinds: tuple[type, ...]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)
