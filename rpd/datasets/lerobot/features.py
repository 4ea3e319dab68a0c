"""Descriptions of a dataset's columns and videos: the ``features`` of its info.json."""

from __future__ import annotations

from typing import Any

from rpd.datasets.episode import STEP_KEYS
from rpd.datasets.lerobot import layout
from rpd.datasets.reader import Demos
from rpd.envs.errors import ConfigError


def frame_rate(demos: Demos) -> int:
    """Control steps per second.

    Raises:
        ConfigError: the tasks differ in their rates, or the rate is not an integer, as LeRobot requires.
    """
    rates = sorted({demos.control_hz(i) for i in range(len(demos))})
    if len(rates) > 1 or rates[0] != round(rates[0]):
        found = " and ".join(f"{rate:g}" for rate in rates)
        raise ConfigError(f"LeRobot requires one integer frame rate, but the control rate is {found} Hz")
    return round(rates[0])


def features(demos: Demos, fps: int) -> dict[str, dict[str, Any]]:
    """Describe every feature.

    Raises:
        ConfigError: tasks differ in the shape of a feature, or H.264 cannot encode the size of an image.
    """
    described: dict[str, dict[str, Any]] = {}
    for key in demos.keys:
        shape = _shape(demos, key)
        if key in demos.cameras:
            if shape[0] % 2 or shape[1] % 2:
                raise ConfigError(f"{key} is {shape[0]} x {shape[1]}: videos need an even height and width")
            described[layout.feature_name(key)] = _video(shape, fps)
        elif key != "terminated":
            dtype = str(STEP_KEYS.get(key, demos.read(0, key, [0]).dtype))
            described[layout.feature_name(key)] = {"dtype": dtype, "shape": list(shape or (1,)), "names": _names(demos, key)}
    if "terminated" in demos.keys:
        described[layout.DONE] = {"dtype": "bool", "shape": [1], "names": None}
    return described | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in layout.INDICES.items()}


def _shape(demos: Demos, key: str) -> tuple[int, ...]:
    """Shape of one row of a key, equal for all tasks."""
    first = {info.task: i for i, info in reversed(list(enumerate(demos.episodes)))}
    shapes = {task: demos.read(i, key, [0]).shape[1:] for task, i in first.items()}
    (task, shape), *others = shapes.items()
    for other, its in others:
        if its != shape:
            raise ConfigError(f"a LeRobot dataset has one shape of {key}: {task} has {list(shape)}, {other} has {list(its)}")
    return shape


def _names(demos: Demos, key: str) -> list[str] | None:
    if key == "state":
        return list(demos.state_names)
    spec = next(iter(demos.specs.values()), None)
    return list(spec.action.names) if spec is not None and key in ("action", "label") else None


def _video(shape: tuple[int, ...], fps: int) -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": list(shape),
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": shape[0],
            "video.width": shape[1],
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
            "is_depth_map": False,
        },
    }
