"""Describe the inputs of a teacher's model: one row per input, for every family; see `rpd.teachers.base.Input`."""

from __future__ import annotations

from collections.abc import Sequence

from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Input


def prompt(name: str, text: str, about: str = "", replaced: bool = False) -> Input:
    """Describe a text input.

    Args:
        name: name of the input in the model.
        text: the complete prompt for an example instruction.
        about: additional facts, e.g. its tokens.
        replaced: whether it replaces the task's instruction.
    """
    return Input(name, "option instruction=" if replaced else "the task's instruction", f"{text!r}{about and f', {about}'}")


def image(name: str, camera: str, size: int | None, processing: str) -> Input:
    """Describe an image input.

    Args:
        name: name of the input in the model.
        camera: camera of the environment.
        size: rendered size, pixels; None: that of the student's images.
        processing: crop, resize, normalization, window.
    """
    rendered = "as the student sees it" if size is None else f"rendered at {size} x {size}"
    return Input(name, f"view.{camera} or image.{camera}, {rendered}", processing)


def state(name: str, entries: Sequence[str], about: str = "") -> Input:
    """Describe a state input.

    Args:
        name: name of the input in the model.
        entries: names of the state entries in the environment, in order.
        about: normalization.
    """
    return Input(name, groups(entries), f"{len(entries)} numbers{about and f', {about}'}")


def observed(spec: EnvSpec, entries: Sequence[str], about: str = "") -> list[Input]:
    """Inputs of a student: its state entries, and the images of the environment."""
    images = []
    for key in spec.cameras:
        height, width, channels = spec.observations[key].shape
        images.append(Input(key, f"{key}, rendered at {height} x {width}", f"uint8 [{height}, {width}, {channels}], as it is"))
    return [state("state", entries, about), *images]


def groups(entries: Sequence[str]) -> str:
    """Group names of state entries by prefix, e.g. ``q (7), gripper (1)``, in their order."""
    runs: list[tuple[str, int]] = []
    for name in entries:
        group = name.split(".", 1)[0]
        if runs and runs[-1][0] == group:
            runs[-1] = (group, runs[-1][1] + 1)
        else:
            runs.append((group, 1))
    return ", ".join(f"{group} ({count})" for group, count in runs)
