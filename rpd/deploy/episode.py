"""One deployed episode: at every tick measure, query the policy if due, and send the command that the safety layer allows."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rpd.datasets.deploy_log.format import OPERATOR
from rpd.deploy import safety
from rpd.deploy.cascade import UNSURE
from rpd.deploy.context import EpisodeContext
from rpd.deploy.monitor import check_age, check_finite, check_state
from rpd.deploy.operators.base import OperatorAction
from rpd.deploy.outcome import Outcome, Stop
from rpd.deploy.policy import Answer
from rpd.deploy.robots.base import RobotState
from rpd.deploy.safety import FilteredCommand, JointCommand
from rpd.envs.control.arm import Array
from rpd.export.actors import invalid_entries


class EpisodeRunner:
    """State of a running episode."""

    def __init__(self, context: EpisodeContext, instruction: str, first_tick: int) -> None:
        """Prepare an episode; `begin` reads the robot.

        Args:
            context: shared parts.
            instruction: language instruction.
            first_tick: number of its first tick, counted over all episodes.
        """
        self.context, self.instruction, self.first_tick = context, instruction, first_tick
        self.out = Outcome(reason="", fault=False, success=None)
        self.gripper_open = True  # start of the hysteresis; commanded only once the policy has answered
        self.answered = False
        self.smoothed: Array | None = None
        self.consecutive_overruns = 0
        self.frames: dict[str, deque[Array]] = {}  # by camera: images of the last control steps
        self.ticks_left = 0  # until the next control step begins
        self.operated = False  # whether the operator is in control
        self.last: Array | None = None  # last action of the policy since it took control

    def begin(self) -> None:
        """Reset policy and controller, and start at rest in the current posture.

        Raises:
            Stop: the robot has stopped by itself, or its measurements are invalid.
            Unsafe: the robot is outside its limits.
        """
        context = self.context
        context.policy.reset()
        if context.operator is not None:
            context.operator.begin()
        state = context.robot.read()
        if state.stopped:
            raise Stop(f"the robot does not move: {state.stopped}")
        check_finite(state)
        self.command = safety.initial_command(state.joints, state.velocities, context.limits, context.body)
        self.goal = self.command.position
        self.gripper_open = state.gripper > 0.5
        context.controller.reset(state.joints)
        self.began = self.deadline = context.clock.now()
        self.pending: dict[int, tuple[float, float]] = {}  # by tick of an unanswered query: query and measurement time
        self.ticks_since_goal = 0

    def tick(self, step: int) -> None:
        """Run one period.

        Raises:
            Stop: the robot must stop.
        """
        context, out = self.context, self.out
        context.clock.sleep_until(self.deadline)
        now = context.clock.now()
        lateness = now - self.deadline
        out.lateness.append(lateness)
        out.ticks += 1
        missed = int(lateness / context.period)
        self.consecutive_overruns = self.consecutive_overruns + missed if missed else 0
        out.overruns += missed
        self.deadline += (1 + missed) * context.period  # deadlines stay on the grid
        frame: dict[str, Any] = {"kind": "tick", "tick": self.first_tick + step, "time": now - self.began}
        frame |= {"lateness": lateness, "missed": missed}
        try:
            self._act(step, now, frame)
        except BaseException:  # the tick that failed is recorded, too
            context.record(frame)
            raise
        context.recorder.add(frame)

    def _act(self, step: int, now: float, frame: dict[str, Any]) -> None:
        """Measure, query and command; adds the results to the frame."""
        context = self.context
        if (reason := context.emergency()) is not None:
            raise Stop(reason)
        if self.consecutive_overruns >= context.config.watchdog.max_consecutive_overruns:
            raise Stop(f"{self.consecutive_overruns} deadlines in a row were missed: the computer is too busy")
        state = context.robot.read()
        self.out.success = state.success
        frame |= {
            "joints": state.joints, "velocities": state.velocities, "gripper": state.gripper, "effort": state.effort,
            "success": state.success,
        }  # fmt: skip
        frame["age"] = self._check(state, now)
        if frame["missed"]:
            limits, body, period = context.limits, context.body, context.period
            self.command = safety.after_gap(self.command, state.velocities, frame["missed"], limits, body, period)
        taken = None if context.operator is None else context.operator.action(state, self.ticks_left == 0, self.last)
        if (taken is not None) != self.operated:
            self._switch(taken, frame)
        begins = self.ticks_left == 0
        if begins:
            self.ticks_left = context.ticks_per_action
            frame["obs"] = self._observe(state)
        self.ticks_left -= 1
        if taken is None:
            self._follow_policy(begins, state, now, frame)
        elif begins:
            self._follow_operator(taken, state, frame)
        wanted, filtered = self._next_command()
        frame |= {
            "wanted": wanted, "command": filtered.command.position, "open": self._gripper_command(),
            "clamps": list(filtered.clamps), "near": [] if filtered.near is None else [filtered.near.part, filtered.near.other],
        }  # fmt: skip
        self._send(filtered.command, state, now)

    def _check(self, state: RobotState, now: float) -> float:
        """Check the robot state and the policy's response time; returns the age of `state`, s."""
        context, age = self.context, self.context.clock.now() - state.time
        self.out.ages.append(age)
        check_state(state, age, self.command.position, context.config, context.robot.spec.effort)
        if self.pending:
            waited = now - min(asked for asked, _ in self.pending.values())
            if waited > context.config.watchdog.policy:
                raise Stop(f"the policy has not answered for {1000 * waited:.0f} ms")
        return age

    def _switch(self, taken: OperatorAction | None, frame: dict[str, Any]) -> None:
        """Give control to the operator, or back to the policy (None); a control step begins with this tick.

        Without a jump: the target starts from the last command, the joints keep their goal until the next action, and the
        gripper keeps its command. The policy starts as in a new episode: it has not seen the steps of the operator.
        """
        context = self.context
        self.operated, self.last = taken is not None, None
        self.ticks_left, self.pending = 0, {}
        self.smoothed = np.zeros(6)
        context.controller.reset(self.command.position)
        if taken is None:
            context.policy.reset()
            frame["returned"] = True
        else:
            self.out.takeovers[taken.reason] += 1
            frame["takeover"] = taken.reason

    def _follow_policy(self, begins: bool, state: RobotState, now: float, frame: dict[str, Any]) -> None:
        """Query the policy if a control step begins, and set the goal if it has answered."""
        context = self.context
        if begins:
            self._query(frame["tick"], frame["obs"], state)
        answer = context.policy.answer(context.clock.answer_by(now, context.period) if begins else None)
        if answer is not None and answer.tick in self.pending:
            newest = context.robot.read()
            check_finite(newest)
            self._take_answer(answer, newest, frame)

    def _follow_operator(self, taken: OperatorAction, state: RobotState, frame: dict[str, Any]) -> None:
        """Set the goal by an action of the operator."""
        if taken.gripper_open is not None:
            self.answered, self.gripper_open = True, taken.gripper_open
        action = np.append(taken.motion, 1.0 if self.gripper_open else -1.0)
        frame |= {"answer": frame["tick"], "raw": action, "who": OPERATOR}
        self.out.who[OPERATOR] += 1
        self._set_goal(action, state, frame)

    def _observe(self, state: RobotState) -> dict[str, Array]:
        """Assemble the observation of a control step."""
        context = self.context
        context.controller.follow(self.command.position)
        obs: dict[str, Array] = {"state": context.observer.state(state, context.controller.target)}
        for key, camera in context.cameras.items():
            taken, image = camera.read()
            check_age(context.clock.now() - taken, context.config.watchdog.observation_age, f"the last picture of {key}")
            count = context.policy.spec.frames
            frames = self.frames.setdefault(key, deque([image] * count, count))
            frames.append(image)  # the first image fills the stack, as in rpd.envs.wrappers.frame_stack
            obs[key] = np.concatenate(frames, axis=-1)
        if state.privileged is not None:
            obs["privileged"] = state.privileged
        if bad := invalid_entries(obs["state"], context.policy.spec.state_names):
            raise Stop(f"the observation for the policy is no number that can be measured: {bad}")
        return obs

    def _query(self, tick: int, obs: dict[str, Array], state: RobotState) -> None:
        """Send an observation to the policy."""
        self.context.policy.ask(tick, obs, self.instruction)
        self.pending[tick] = self.context.clock.now(), state.time
        self.out.asked += 1

    def _take_answer(self, answer: Answer, state: RobotState, frame: dict[str, Any]) -> None:
        """Check an answer of the policy, and set the goal."""
        context, out = self.context, self.out
        _, measured = self.pending[answer.tick]
        self.pending = {tick: times for tick, times in self.pending.items() if tick > answer.tick}
        frame |= {"answer": answer.tick, "raw": answer.action, "policy_seconds": answer.seconds}
        frame |= {"who": answer.who, "spread": answer.spread, "value": answer.value}
        out.answered += 1
        out.who[answer.who] += 1
        if answer.who == UNSURE:
            raise Stop(f"the policy is unsure: spread {answer.spread}, value {answer.value}")
        names = context.policy.spec.action.names
        if answer.action.shape != (len(names),) or invalid_entries(answer.action, names):
            raise Stop(f"the policy's action is not finite: {np.array2string(answer.action, precision=3)}")
        if (np.abs(answer.action) > 1 + 1e-6).any():
            out.clamps["action"] += 1
        self.answered, self.last = True, answer.action
        hysteresis = context.config.gripper_hysteresis
        self.gripper_open = safety.gripper_with_hysteresis(float(answer.action[6]), self.gripper_open, hysteresis)
        self._set_goal(answer.action, state, frame)
        frame["delay"] = context.clock.now() - measured
        out.delays.append(frame["delay"])

    def _set_goal(self, action: Array, state: RobotState, frame: dict[str, Any]) -> None:
        """Convert an action [7] to the goal of the joints, one control step ahead."""
        context = self.context
        self.smoothed = safety.smooth(np.clip(action[:6], -1, 1), self.smoothed, context.config.smoothing)
        frame["action"] = np.append(self.smoothed, 1.0 if self.gripper_open else -1.0)
        self.ticks_since_goal = 0
        self.goal = context.controller.step(frame["action"], state.joints, self.command.position)

    def _next_command(self) -> tuple[Array, FilteredCommand]:
        """Move on toward the goal; returns the joint positions [n], rad, wanted now, and the filtered command."""
        context = self.context
        left = max(context.ticks_per_action - self.ticks_since_goal, 1)
        self.ticks_since_goal += 1
        wanted = self.command.position + (self.goal - self.command.position) / left
        speed = safety.ramp(context.clock.now() - self.began, context.config.ramp)
        filtered = safety.filter_command(self.goal, self.command, context.limits, context.body, context.period, speed, left)
        self.out.clamps.update(filtered.clamps)
        return wanted, filtered

    def _gripper_command(self) -> bool | None:
        """Return whether to open the gripper; None before the first answer: it keeps holding what it holds."""
        return self.gripper_open if self.answered else None

    def _send(self, command: JointCommand, state: RobotState, began: float) -> None:
        """Send a command, unless the tick has taken too long."""
        context = self.context
        if (reason := context.emergency()) is not None:
            raise Stop(reason)
        if (late := context.clock.now() - began) > context.config.watchdog.max_consecutive_overruns * context.period:
            raise Stop(f"a command took {1000 * late:.0f} ms: the computer is too busy")
        if context.dry_run:  # the arm does not move: the next command starts from its current posture
            command = JointCommand(state.joints, np.zeros_like(state.joints))
        else:
            opening = self._gripper_command()
            context.robot.command(command.position, None if opening is None else float(opening))
        self.command = command
