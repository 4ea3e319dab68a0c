"""Scripted operator of the simulated robot, in place of a person: the task's privileged expert corrects the policy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rpd.deploy.operators.base import OperatorAction
from rpd.deploy.robots.base import Array, RobotState
from rpd.envs.errors import ConfigError
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.specs import EnvSpec
from rpd.teachers.scripted import expert
from rpd.teachers.scripted.experts import EXPERTS, base_name

STUCK, DRIFT = "stuck", "drift"
"""Reasons of a take-over."""
STUCK_TIME, STUCK_WAY = 1.0, 0.005
"""The policy is stuck if the tool has moved less than this way, m, in this time, s, while the expert would move it."""
DRIFT_TIME, DRIFT_GAP = 0.5, 0.5
"""The policy drifts if its actions differ by more than this gap from the expert's, on average over this time, s."""
MOVES = 0.1
"""Largest entry of the expert's translation, in [0, 1], from which on it would move the tool."""
TURN = 2.0
"""Time for which the operator keeps control, s."""


class Step(NamedTuple):
    """One control step of the policy."""

    tool: Array
    """[3] position of the tool center point, m."""
    expert: Array
    """[A] action of the expert."""
    gap: float
    """See `gap`."""


def gap(action: Array, expert: Array) -> float:
    """Difference of two actions [A] in [-1, 1], from 0 to 2: the largest of the translation, or that of the gripper's sign."""
    moved = float(np.abs(np.clip(action[:3], -1, 1) - expert[:3]).max())
    return max(moved, abs(float(np.sign(action[-1]) - np.sign(expert[-1]))))


def fault(steps: list[Step], hz: float) -> str | None:
    """Return `STUCK` or `DRIFT` if the last control steps of a policy need a correction, else None.

    Args:
        steps: all steps since the policy took control, oldest first.
        hz: control steps per second.
    """
    last = steps[-max(round(STUCK_TIME * hz), 1) :]
    if len(last) >= STUCK_TIME * hz:
        way = np.ptp([step.tool for step in last], axis=0).max()
        if way < STUCK_WAY and np.mean([np.abs(step.expert[:3]).max() for step in last]) > MOVES:
            return STUCK
    last = steps[-max(round(DRIFT_TIME * hz), 1) :]
    if len(last) >= DRIFT_TIME * hz and np.mean([step.gap for step in last]) > DRIFT_GAP:
        return DRIFT
    return None


class Scripted:
    """Takes over when the policy is stuck or drifts (see `fault`), acts as the expert for `TURN` seconds, and gives back.

    Args:
        spec: environment of the simulated robot.

    Raises:
        ConfigError: the robot has no privileged state, or the task has no expert.
    """

    def __init__(self, spec: EnvSpec) -> None:
        if not spec.scene:
            raise ConfigError("--operator scripted reads the simulated scene: use --robot sim, or --simulate True")
        if base_name(spec.task) not in EXPERTS:
            raise ConfigError(f"--operator scripted has no expert for {spec.task}: use keyboard, gamepad or spacemouse")
        self._task, self._space, self._hz = spec.task, spec.action, spec.control_hz
        self.begin()

    def begin(self) -> None:
        """See `Operator`."""
        self._steps: list[Step] = []
        self._before: tuple[Array, Array] | None = None  # tool and advice of the previous control step
        self._left, self._reason = 0, ""
        self._now: OperatorAction | None = None

    def action(self, state: RobotState, due: bool, last: Array | None) -> OperatorAction | None:
        """See `Operator`; the decision changes only where a control step begins."""
        if not due:
            return self._now
        assert state.privileged is not None
        scene = torch.from_numpy(np.asarray(state.privileged, dtype=np.float64))[None]
        advice = expert(self._task, scene, self._space)[0].numpy()
        if self._left:
            self._left -= 1
        elif self._before is not None and last is not None:
            self._steps.append(Step(*self._before, gap(last, self._before[1])))
            if (reason := fault(self._steps, self._hz)) is not None:
                self._left, self._reason = round(TURN * self._hz), reason
                self._steps.clear()
        self._before = ManipulationState.get(scene, "tcp_pos")[0].numpy(), advice
        self._now = OperatorAction(advice[:6], bool(advice[6] > 0), self._reason) if self._left else None
        return self._now

    def close(self) -> None:
        """See `Operator`."""
