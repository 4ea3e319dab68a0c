"""Observations of a policy from measurements of a robot and its cameras."""

from __future__ import annotations

import numpy as np

from rpd.deploy.robots.base import RobotState
from rpd.envs.control.arm import Arm, Array
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.control.state_names import SCALED, own_names, state_names
from rpd.envs.errors import ConfigError
from rpd.envs.robots import Robot
from rpd.envs.specs import EnvSpec, ObsSpec


def offered(wanted: EnvSpec, robot: Robot, tracked: tuple[str, ...], privileged: bool) -> EnvSpec:
    """Spec of an environment with the observations and actions that a robot offers to a policy.

    Args:
        wanted: spec of the policy: task, cameras, rate.
        robot: the arm.
        tracked: names of the state entries of the driver's object tracker.
        privileged: whether the driver provides the privileged state.

    Raises:
        ConfigError: the policy reads an entry that is not measured.
    """
    known = (*state_names(robot, scene=False, goal=False), *tracked)
    names = wanted.state_names if set(wanted.state_names) <= set(known) else known
    return wanted.model_copy(
        update={
            "embodiment": robot.embodiment(),
            "observations": {
                "state": ObsSpec(shape=(len(names),), dtype="float32"),
                **{key: wanted.observations[key] for key in wanted.cameras},
            },
            "state_names": names,
            "state_scaled": tuple(name.startswith(SCALED) for name in names),
            "action": action_spec(robot),
            "scene": privileged,
        }
    )


def check_measured(names: tuple[str, ...], arm: Arm, tracked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the measured state entries, in order.

    Args:
        names: state entries that a policy reads.
        arm: arm of the robot.
        tracked: state entries of the driver's object tracker.

    Raises:
        ConfigError: one of `names` is not measured.
    """
    known = (*own_names(arm.joints), *tracked)
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigError(
            f"the policy reads {', '.join(missing[:4])}{'…' if len(missing) > 4 else ''}, which this robot does not measure: "
            "train it with --env.obs-mode rgb"
        )
    return known


class Observer:
    """Assembles the state vector of a policy.

    Args:
        names: names of its entries.
        arm: arm of the robot.
        tracked: state entries of the driver's object tracker.

    Raises:
        ConfigError: an entry that is not measured.
    """

    def __init__(self, names: tuple[str, ...], arm: Arm, tracked: tuple[str, ...]) -> None:
        known = check_measured(names, arm, tracked)
        order = {name: i for i, name in enumerate(known)}
        self._arm, self._tracked = arm, tracked
        self._columns = np.array([order[name] for name in names])

    def state(self, measured: RobotState, target: Array) -> Array:
        """Assemble the state vector [S] float32.

        Args:
            measured: state of the robot.
            target: [3] target of the controller for the tool center point, m.
        """
        position, rotation = (x[0] for x in self._arm.forward(measured.joints[None]))
        axes, tracked = (rotation[:, 0], rotation[:, 1]), [measured.tracked[name] for name in self._tracked]
        own = (measured.joints, measured.velocities, [measured.gripper], position, *axes, target - position, tracked)
        return np.concatenate(own)[self._columns].astype(np.float32)
