"""From what a robot and its cameras measure to what a policy sees."""

from __future__ import annotations

import numpy as np

from envs.errors import ConfigError
from envs.specs import EnvSpec, ObsSpec
from envs.tabletop.control import action_spec
from envs.tabletop.observe import SCALED, own_names, state_names
from envs.tabletop.robots import Robot
from rpd.deploy.kinematics import Arm, Array
from rpd.deploy.robots.base import RobotState


def offered(wanted: EnvSpec, robot: Robot, tracked: tuple[str, ...], privileged: bool) -> EnvSpec:
    """What a robot offers to a policy, as the spec of an environment that it then has to fit.

    Args:
        wanted: what the policy was made for: task, cameras, rate.
        robot: the arm.
        tracked: names of the state entries that the robot's driver knows beside its own.
        privileged: whether it knows the scene.

    Raises:
        ConfigError: the policy reads what nobody measures.
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


class Observer:
    """Puts a policy's state vector together.

    Args:
        names: of its entries.
        arm: the robot's.

    Raises:
        ConfigError: an entry that is neither the robot's own nor `tracked`.
    """

    def __init__(self, names: tuple[str, ...], arm: Arm, tracked: tuple[str, ...]) -> None:
        known = (*own_names(arm.joints), *tracked)
        missing = [name for name in names if name not in known]
        if missing:
            raise ConfigError(
                f"the policy reads {', '.join(missing[:4])}{'…' if len(missing) > 4 else ''}, which nobody measures on this "
                "robot: train it with --env.obs image"
            )
        order = {name: i for i, name in enumerate(known)}
        self._arm, self._tracked = arm, tracked
        self._columns = np.array([order[name] for name in names])

    def state(self, measured: RobotState, target: Array) -> Array:
        """The state vector [S] float32.

        Args:
            measured: by the robot.
            target: [3] where the controller wants the tool centre point, m.
        """
        position, rotation = (x[0] for x in self._arm.forward(measured.joints[None]))
        axes, tracked = (rotation[:, 0], rotation[:, 1]), [measured.tracked[name] for name in self._tracked]
        own = (measured.joints, measured.velocities, [measured.gripper], position, *axes, target - position, tracked)
        return np.concatenate(own)[self._columns].astype(np.float32)
