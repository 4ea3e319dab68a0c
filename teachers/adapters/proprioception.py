"""Named parts of an environment's state, in the conventions of other projects.

A part is a quantity of the table below, which every simulator provides through its own entries; a group of entries, e.g.
``tcp`` of ``tcp.x tcp.y ...``; or one entry. No other entries are read, so that object poses are sent only if they are named.

| quantity | numbers | |
|---|---|---|
| ``eef_pos`` | 3 | position of the hand, m |
| ``eef_quat`` | 4 | orientation of the hand, x y z w |
| ``eef_axis_angle`` | 3 | the same as axis times angle, rad (openpi's ``_quat2axisangle``, examples/libero/main.py) |
| ``joint_pos`` | | joint angles of the arm, rad |
| ``gripper_qpos`` | 2 | finger positions in LIBERO's convention, m: half the opening, and minus half |
| ``gripper_closed`` | 1 | 0: open, 1: closed (DROID's ``gripper_position``) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rpd.envs.errors import SpecMismatch, unknown_name
from rpd.envs.specs import EnvSpec

Array = np.ndarray
Names = tuple[str, ...]

POSITIONS: tuple[Names, ...] = tuple(tuple(f"{p}{a}" for a in axes) for p, axes in (
    ("robot0_eef_pos.", "012"), ("tcp.", "xyz"), ("tcp_pose.", "xyz"),
))  # fmt: skip
QUATERNIONS: tuple[Names, ...] = tuple(tuple(f"{p}.q{a}" for a in "xyzw") for p in ("robot0_eef_quat", "tcp_pose"))
COLUMNS: Names = tuple(f"tcp.r{row}{column}" for column in (1, 2) for row in (1, 2, 3))
FINGERS = "robot0_gripper_qpos", "qpos.panda_finger_joint"
JOINTS = "robot0_joint_pos.", "q.", "qpos."


@dataclass(frozen=True)
class Part:
    """Numbers computed from state entries."""

    name: str
    entries: Names
    compute: Callable[[Array], Array]
    """Function [N, entries] -> [N, D]."""

    def read(self, state: Array, spec: EnvSpec) -> Array:
        """Compute the part [N, D], float32, from states [N, S]."""
        columns = [spec.state_names.index(name) for name in self.entries]
        return self.compute(state[:, columns].astype(np.float64)).astype(np.float32)


def part(name: str, spec: EnvSpec) -> Part:
    """Find a part of an environment's state.

    Args:
        name: a quantity, a group or an entry; a leading ``-`` reverses its sign.
        spec: the environment.

    Raises:
        ConfigError: unknown name.
        SpecMismatch: the environment does not provide the quantity.
    """
    if name.startswith("-"):
        positive = part(name[1:], spec)
        return Part(name, positive.entries, lambda values: -positive.compute(values))
    if name in QUANTITIES:
        found = QUANTITIES[name](spec)
        if found is None:
            raise SpecMismatch(f"{spec.task} does not provide {name}; its state has {', '.join(_groups(spec))}")
        return Part(name, *found)
    if name in spec.state_names:
        return Part(name, (name,), _same)
    if name not in _groups(spec):
        raise unknown_name(f"part of the state of {spec.task}", name, [*QUANTITIES, *_groups(spec)])
    return Part(name, spec.entries([name]), _same)


def axis_angle(quaternions: Array) -> Array:
    """Axis times angle [N, 3], rad, of quaternions [N, 4], x y z w, as in openpi's LIBERO example: angles up to 2 pi."""
    w = quaternions[:, 3:].clip(-1, 1)
    sine = np.sqrt(1 - w * w)
    turned = sine > 1e-9
    return np.where(turned, quaternions[:, :3] * 2 * np.arccos(w) / np.where(turned, sine, 1), 0)


def quaternion(columns: Array) -> Array:
    """Quaternions [N, 4], x y z w with w >= 0, of the first two columns [N, 6] of rotation matrices.

    Uses the eigenvector of the largest eigenvalue, which is valid for any sign of w (Bar-Itzhack, 2000).
    """
    first, second = columns[:, :3], columns[:, 3:]
    m = np.stack([first, second, np.cross(first, second)], -1)  # [N, 3, 3]
    symmetric = m + m.transpose(0, 2, 1)
    trace = np.trace(m, axis1=1, axis2=2)
    k = np.zeros((len(m), 4, 4))
    k[:, :3, :3] = symmetric - trace[:, None, None] * np.eye(3)
    k[:, 3, :3] = k[:, :3, 3] = np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], -1)
    k[:, 3, 3] = trace
    q = np.linalg.eigh(k)[1][:, :, -1]
    return np.where(q[:, 3:] < 0, -q, q)


Found = tuple[Names, Callable[[Array], Array]] | None


def _same(values: Array) -> Array:
    return values


def _groups(spec: EnvSpec) -> list[str]:
    return list(dict.fromkeys(name.split(".", 1)[0] for name in spec.state_names))


def _first(alternatives: tuple[Names, ...], spec: EnvSpec) -> Names | None:
    return next((names for names in alternatives if set(names) <= set(spec.state_names)), None)


def _eef_pos(spec: EnvSpec) -> Found:
    names = _first(POSITIONS, spec)
    return None if names is None else (names, _same)


def _eef_quat(spec: EnvSpec) -> Found:
    if (names := _first(QUATERNIONS, spec)) is not None:
        return names, _same
    return (COLUMNS, quaternion) if set(COLUMNS) <= set(spec.state_names) else None


def _eef_axis_angle(spec: EnvSpec) -> Found:
    found = _eef_quat(spec)
    if found is None:
        return None
    names, to_quaternion = found
    return names, lambda values: axis_angle(to_quaternion(values))


def _joint_pos(spec: EnvSpec) -> Found:
    for prefix in JOINTS:
        names = tuple(name for name in spec.state_names if name.startswith(prefix))[: spec.embodiment.num_joints]
        if names:
            return names, _same
    return None


def _opening(spec: EnvSpec) -> Found:
    """Opening of the gripper, [N, 1]: 0 to 1."""
    if "gripper" in spec.state_names:  # a fraction already
        return ("gripper",), _same
    most = spec.embodiment.descriptor.get("gripper_opening", spec.embodiment.descriptor.get("opening"))
    fingers = _fingers(spec)
    return None if most is None or fingers is None else (fingers, lambda q: np.abs(q).sum(1, keepdims=True) / most)


def _gripper_closed(spec: EnvSpec) -> Found:
    found = _opening(spec)
    if found is None:
        return None
    names, opening = found
    return names, lambda values: 1 - opening(values)


def _gripper_qpos(spec: EnvSpec) -> Found:
    most = spec.embodiment.descriptor.get("opening")
    if (fingers := _fingers(spec)) is not None:
        return fingers, lambda q: np.abs(q) * (1, -1) if fingers[0].startswith("qpos") else q
    if "gripper" in spec.state_names and most is not None:
        return ("gripper",), lambda fraction: fraction * most / 2 * (1, -1)
    return None


def _fingers(spec: EnvSpec) -> Names | None:
    for prefix in FINGERS:
        names = tuple(name for name in spec.state_names if name.startswith(prefix))
        if len(names) == 2:
            return names
    return None


QUANTITIES: dict[str, Callable[[EnvSpec], Found]] = {
    "eef_pos": _eef_pos, "eef_quat": _eef_quat, "eef_axis_angle": _eef_axis_angle, "joint_pos": _joint_pos,
    "gripper_qpos": _gripper_qpos, "gripper_closed": _gripper_closed,
}  # fmt: skip
