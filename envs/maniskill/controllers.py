"""ManiSkill's controllers as action spaces in [-1, 1], and its robots as embodiments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rpd.envs.errors import ConfigError
from rpd.envs.specs import ActionSpec, Embodiment


@dataclass(frozen=True)
class Part:
    """Action dimensions of one controller.

    Attributes:
        low, high: values of -1 and +1 before they are passed to ManiSkill; -1 and 1 for controllers that normalize themselves.
    """

    names: list[str]
    units: list[str]
    scale: list[float]
    discrete: list[bool]
    low: np.ndarray
    high: np.ndarray


def describe(agents: dict[str, Any]) -> tuple[ActionSpec, tuple[np.ndarray, np.ndarray] | None]:
    """Describe the concatenated actions of one or more robots.

    For ``pd_ee_delta_pose``: translations along and rotations about the axes of the robot's base (ManiSkill's
    ``root_translation:root_aligned_body_rotation``). Rotations have the opposite sign: ManiSkill multiplies them by the lower
    limit (-0.1 rad on a Panda) and clips their norm to 1; the scale is therefore negative. Gripper: +1 opens.

    Args:
        agents: robots by prefix; the prefix is omitted for a single robot.

    Returns:
        The action space, and the values of -1 and +1 for ManiSkill ([A] each), or None if unchanged.

    Raises:
        ConfigError: a control mode without bounds, which cannot be normalized.
    """
    parts, frames = [], set()
    for agent_name, agent in agents.items():
        controllers = getattr(agent.controller, "controllers", {"arm": agent.controller})
        for name, controller in controllers.items():
            if controller.single_action_space.shape[0] > 0:
                parts.append(_part(name, controller, f"{agent_name}." if len(agents) > 1 else ""))
                frames.add(getattr(controller.config, "frame", None))
    low, high = (np.concatenate([getattr(p, side) for p in parts]) for side in ("low", "high"))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        modes = sorted(next(iter(agents.values())).supported_control_modes)
        raise ConfigError(f"control mode without bounds cannot be normalized; this robot also has: {', '.join(modes)}")
    spec = ActionSpec(
        names=tuple(n for p in parts for n in p.names),
        units=tuple(u for p in parts for u in p.units),
        scale=tuple(round(float(s), 6) for p in parts for s in p.scale),
        discrete=tuple(d for p in parts for d in p.discrete),
        frame=_frame({f for f in frames if f}),
    )
    unchanged = bool((low == -1).all() and (high == 1).all())
    return spec, None if unchanged else (low, high)


def embodiment(agents: dict[str, Any]) -> Embodiment:
    """Describe a robot: joint limits in rad (or m), gains in N m / rad, gripper opening in m, maximum deltas."""
    descriptor: dict[str, float] = {}
    count = 0
    for agent in agents.values():
        controllers = getattr(agent.controller, "controllers", {"arm": agent.controller})
        for part, controller in controllers.items():
            limits = np.asarray(agent.robot.get_qlimits()[0].cpu())[controller.active_joint_indices.cpu().numpy()]
            if "gripper" in part:
                descriptor["opening"] = float((limits[:, 1] - limits[:, 0]).sum())
                continue
            config = controller.config
            for lower, upper in limits:
                count += 1
                descriptor |= {f"joint{count}_lower": float(lower), f"joint{count}_upper": float(upper)}
            deltas = {"max_delta_pos": "pos_upper", "max_delta_rot": "rot_upper"}
            gains = {f"{part}_kp": "stiffness", f"{part}_kv": "damping", f"{part}_force": "force_limit"}
            for key, attribute in (deltas | gains).items():
                value = getattr(config, attribute, None)
                if isinstance(value, (int, float)):
                    descriptor[key] = float(value)
    finite = {k: round(v, 6) for k, v in descriptor.items() if math.isfinite(v)}  # wheels have no limits
    return Embodiment(name="+".join(agent.uid for agent in agents.values()), num_joints=count, descriptor=finite)


def _part(name: str, controller: Any, prefix: str) -> Part:
    config, space = controller.config, controller.single_action_space
    dim = space.shape[0]
    normalised = bool(getattr(config, "normalize_action", False))
    limits = controller._original_single_action_space if normalised else space
    scale = ((limits.high - limits.low) / 2).tolist()
    kind = type(config).__name__
    gripper = "gripper" in name and dim == 1
    if gripper:
        names, units, scale = ["gripper"], ["open"], [1.0]
    elif kind.startswith("PDEE"):
        names = ["x", "y", "z", "roll", "pitch", "yaw"][:dim]
        units = ["m"] * 3 + ["rad"] * (dim - 3)
        if normalised and dim == 6:
            scale[3:] = np.broadcast_to(config.rot_lower, 3).tolist()  # not rot_upper: see `describe`
    elif kind.startswith("PDBaseForwardVel"):
        names, units = ["forward", "turn"], ["m/s", "rad/s"]
    else:
        names = [f"joint_{i + 1}" if name == "arm" else f"{name}_{i + 1}" for i in range(dim)]
        units = _joint_units(kind, controller.joints, dim)
    ones = np.ones(dim, np.float32)
    return Part(
        names=[prefix + n for n in names],
        units=units,
        scale=scale,
        discrete=[gripper] * dim,
        low=-ones if normalised else limits.low,
        high=ones if normalised else limits.high,
    )


def _joint_units(kind: str, joints: list[Any], dim: int) -> list[str]:
    """Units of a joint controller: positions, velocities (``Vel``), or both for each joint (``PosVel``)."""
    positions = ["m" if "prismatic" in joint.type else "rad" for joint in joints]
    velocities = [f"{unit}/s" for unit in positions]
    if "Vel" not in kind:
        return positions[:dim]
    return (positions + velocities if "Pos" in kind else velocities)[:dim]


def _frame(frames: set[str]) -> str:
    if not frames:
        return "joint"
    # Frames with the same meaning for a policy are merged; others keep ManiSkill's names.
    base = {"root_translation", "root_translation:root_aligned_body_rotation"}
    return "base" if frames <= base else "+".join(sorted(frames))
