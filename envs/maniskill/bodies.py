"""ManiSkill's robots with the kinematics of the tabletop's."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAPTER = 0.022  # m
ROBOTIQ_OPENING, PAD_THICKNESS, CLOSED = 0.086, 0.0064, 0.81
"""Robotiq 2F-85: largest distance between its pads and the thickness of both, m; position of its joints when closed, rad."""


@dataclass(frozen=True)
class Body:
    """A robot of ManiSkill."""

    uid: str
    """Its name in ManiSkill."""
    tool: str
    """Link of the tool center point: z points out of the gripper, y along its opening."""
    fingers: tuple[str, str]
    """Links that touch objects: of the finger on the side of +y, and the other."""
    opening: Callable[[Any], float]
    """Opening of an articulation, as a fraction."""
    grip: Callable[[float], float]
    """Action of ManiSkill's gripper controller for an opening."""
    open_joints: tuple[float, ...]
    """Positions of the gripper's joints when open."""


def _panda_opening(robot: Any) -> float:
    return float(robot.qpos[0, -2:].sum()) / 0.08


def _robotiq_opening(robot: Any) -> float:
    left, right = (robot.links_map[f"{side}_inner_finger_pad"].pose.p[0] for side in ("left", "right"))
    return (float((left - right).norm()) - PAD_THICKNESS) / ROBOTIQ_OPENING


BODIES = {
    "panda": Body(
        uid="panda",
        tool="panda_hand_tcp",
        fingers=("panda_leftfinger", "panda_rightfinger"),
        opening=_panda_opening,
        grip=lambda opening: 2 * opening - 1,  # -0.01 to 0.04 m: a closed gripper presses, as in ManiSkill's tasks
        open_joints=(0.04, 0.04),
    ),
    "xarm6": Body(
        uid="xarm6_robotiq",
        tool="eef",
        fingers=("right_inner_finger_pad", "left_inner_finger_pad"),
        opening=_robotiq_opening,
        grip=lambda opening: CLOSED * (1 - opening),
        open_joints=(0.0,) * 6,
    ),
}
"""By the name of the robot in `rpd.envs.robots`."""


def agent(body: Body) -> str:
    """Register the robot as the scene needs it; returns its name in ManiSkill.

    ManiSkill's xArm6 has a Robotiq 2F-85, whose fingers end `ADAPTER` nearer to the flange than those of the xArm's own gripper
    in the tabletop: an adapter of that length between flange and gripper puts the tool center point in the same place.
    """
    if body.uid != "xarm6_robotiq":
        return body.uid
    from mani_skill.agents.registration import REGISTERED_AGENTS, register_agent

    name = f"{body.uid}_adapter"
    if name not in REGISTERED_AGENTS:
        base = REGISTERED_AGENTS[body.uid].agent_cls
        register_agent(override=False)(type("XArm6Adapter", (base,), {"uid": name, "urdf_path": _extended(base.urdf_path)}))
    return name


def _extended(urdf: str) -> str:
    """Path of a copy of the xArm6's URDF with the adapter; meshes stay where they are."""
    source = Path(urdf)
    text = source.read_text()
    joint = re.search(r'<joint name="gripper_fix".*?</joint>', text, re.DOTALL)
    assert joint is not None, f"{urdf} has no joint gripper_fix"
    text = text.replace(joint[0], joint[0].replace('xyz="0 0 0"', f'xyz="0 0 {ADAPTER}"'))
    folder = Path(tempfile.mkdtemp(prefix="rpd-xarm6-"))
    copy = folder / source.name
    copy.write_text(text.replace('filename="', f'filename="{source.parent}/'))
    srdf = source.with_suffix(".srdf")
    copy.with_suffix(".srdf").write_text(srdf.read_text())
    return str(copy)
