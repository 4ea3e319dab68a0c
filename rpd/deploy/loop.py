"""The control loop: at every tick measure, perhaps ask the policy, and command what the safety layer admits."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.errors import RunFault
from envs.tabletop.robots import ROBOTS
from rpd.deploy import safety
from rpd.deploy.cameras import Camera
from rpd.deploy.cascade import NOBODY
from rpd.deploy.config import RobotConfig
from rpd.deploy.controller import Controller
from rpd.deploy.kinematics import Arm, Array
from rpd.deploy.observe import Observer
from rpd.deploy.policy import Answer, PolicyProcess
from rpd.deploy.record import Recorder, RecordLost
from rpd.deploy.robots.base import Robot, RobotState
from rpd.deploy.safety import Motion, Unsafe, Verdict

PATIENCE = 0.5  # of a period: how long a tick waits for the answer to what it asked


class Stop(Exception):
    """The robot shall stop; the message says why."""


@dataclass
class Outcome:
    """What became of one episode."""

    reason: str
    """Why it ended."""
    fault: bool
    """Whether that was a fault, so that the deployment is over."""
    success: bool | None
    """Whether the task was solved, where that is known."""
    stopped_at: float = 0.0
    """`time.monotonic` when the robot had been told to stop."""
    ticks: int = 0
    asked: int = 0
    """Observations that were sent to the policy."""
    answered: int = 0
    lateness: list[float] = field(default_factory=list)
    """Of every tick, s after its deadline."""
    ages: list[float] = field(default_factory=list)
    """Of every observation of the robot when it was used, s."""
    delays: list[float] = field(default_factory=list)
    """From measuring an observation to commanding the answer to it, s."""
    overruns: int = 0
    """Deadlines that passed without a command."""
    who: Counter[str] = field(default_factory=Counter)
    """Answers by whose they were, see `rpd.deploy.cascade`."""
    clamps: Counter[str] = field(default_factory=Counter)
    """Commands that each limit changed."""


class Loop:
    """Deploys one policy on one robot, episode by episode.

    Attributes:
        emergency: says why to stop at once, if anybody wants to; asked at every tick.
    """

    def __init__(
        self,
        robot: Robot,
        policy: PolicyProcess,
        cameras: dict[str, Camera],
        config: RobotConfig,
        recorder: Recorder,
        emergency: Callable[[], str | None],
        dry_run: bool = False,
    ) -> None:
        """Put the parts together; nothing moves.

        Args:
            robot: connected.
            policy: loaded.
            cameras: by key of the observation, e.g. ``image.front``.
            config: of the robot; its rate is a multiple of the policy's.
            recorder: of every tick.
            emergency: see above.
            dry_run: decide and record, but send nothing.

        Raises:
            ConfigError: the policy does not fit the robot.
        """
        self.robot, self.policy, self.cameras, self.config = robot, policy, cameras, config
        self.recorder, self.emergency, self.dry_run = recorder, emergency, dry_run
        body = ROBOTS[config.kinematics]
        arm = Arm(body)
        self.limits = config.safety_limits()
        self.period, self.every = 1 / config.rate, round(config.rate / policy.spec.control_hz)
        self._forward = lambda joints: arm.forward(joints)[0]
        self._observer = Observer(policy.spec.state_names, arm, robot.spec.tracked)
        self._controller = Controller(body, arm, policy.spec.action, self.limits)
        self._tick = 0  # over all episodes, so that an answer to an earlier one is told from one of this

    def run(self, max_steps: int, instruction: str, until_solved: bool) -> Outcome:
        """Run an episode from where the robot is.

        Args:
            max_steps: actions of the policy, at most.
            instruction: for policies that read one.
            until_solved: end it when the robot reports success.

        Returns:
            What became of it. Whatever ended it, the robot has been told to stop.
        """
        episode = _Episode(self, instruction)
        out = episode.out
        try:
            episode.begin()
            for step in range(max_steps * self.every):
                episode.tick(step)
                if until_solved and out.success:
                    out.reason = "solved"
                    break
            else:
                out.reason = "time is up"
        except (Stop, Unsafe, RunFault) as stop:
            out.reason, out.fault = str(stop), True
        finally:
            out.stopped_at = self.stop()
        self._tick += max_steps * self.every
        return out

    def stop(self) -> float:
        """Tell the robot to stop; returns when, `time.monotonic`."""
        if not self.dry_run:
            try:
                self.robot.stop()
            except RunFault:  # it is gone: there is nobody to tell
                return time.monotonic()
        return time.monotonic()

    def record(self, frame: dict[str, Any]) -> None:
        """Record what is not a tick, if anything can still be recorded."""
        try:
            self.recorder.add(frame)
        except RecordLost:
            return


class _Episode:
    """The state of a running episode."""

    def __init__(self, loop: Loop, instruction: str) -> None:
        self.loop, self.instruction = loop, instruction
        self.out = Outcome(reason="", fault=False, success=None)
        self.first = loop._tick
        self.opened = True
        self.smoothed: Array | None = None
        self.late_in_a_row = 0
        self.past: dict[str, deque[Array]] = {}  # by camera, what it saw when the policy was asked

    def begin(self) -> None:
        """Start from rest, where the robot is."""
        loop = self.loop
        loop.policy.reset()
        state = loop.robot.read()
        if state.stopped:
            raise Stop(f"the robot does not move: {state.stopped}")
        self.motion = safety.at_rest(state.joints, loop.limits, loop._forward)
        self.start = self.goal = self.motion.position
        self.opened = state.gripper > 0.5
        loop._controller.reset(state.joints)
        self.began = self.due = time.monotonic()
        self.pending: dict[int, tuple[float, float]] = {}  # of each question without an answer: when asked, when measured
        self.since_goal = 0

    def tick(self, step: int) -> None:
        """One period.

        Raises:
            Stop: the robot has to.
        """
        loop, out = self.loop, self.out
        time.sleep(max(0.0, self.due - time.monotonic()))
        now = time.monotonic()
        lateness = now - self.due
        out.lateness.append(lateness)
        out.ticks += 1
        missed = int(lateness / loop.period)
        self.late_in_a_row = self.late_in_a_row + missed if missed else 0
        out.overruns += missed
        self.due += (1 + missed) * loop.period  # deadlines stay on the grid
        if missed:  # a robot that hears nothing comes to rest where it was sent
            self.motion = Motion(self.motion.position, np.zeros_like(self.motion.position))
        frame: dict[str, Any] = {"kind": "tick", "tick": self.first + step, "time": now - self.began}
        frame |= {"lateness": lateness, "missed": missed}
        try:
            self._act(step, now, frame)
        except BaseException:  # what led to it shall be known
            loop.record(frame)
            raise
        loop.recorder.add(frame)

    def _act(self, step: int, now: float, frame: dict[str, Any]) -> None:
        """Measure, ask, and command; what comes of it goes into the frame."""
        loop = self.loop
        if (wish := loop.emergency()) is not None:
            raise Stop(wish)
        if self.late_in_a_row >= loop.config.watchdog.overruns:
            raise Stop(f"{self.late_in_a_row} deadlines in a row were missed: the computer is too busy")
        state = loop.robot.read()
        self.out.success = state.success
        frame |= {
            "joints": state.joints, "velocities": state.velocities, "gripper": state.gripper, "effort": state.effort,
            "success": state.success,
        }  # fmt: skip
        frame["age"] = self._check(state, now)
        asks = step % loop.every == 0
        if asks:
            frame["obs"] = self._ask(step, state)
        answer = loop.policy.answer(now + PATIENCE * loop.period if asks else None)
        if answer is not None and answer.tick in self.pending:
            self._aim(answer, loop.robot.read(), frame)
        wanted, verdict = self._decide(state)
        frame |= {
            "wanted": wanted, "command": verdict.motion.position, "open": self.opened, "clamps": list(verdict.clamps),
        }  # fmt: skip
        self._send(verdict.motion, state, now)

    def _check(self, state: RobotState, now: float) -> float:
        """Stop where what is known is too old, or the robot is not where it should be; returns the age of `state`, s."""
        config, watchdog = self.loop.config, self.loop.config.watchdog
        age = time.monotonic() - state.time
        self.out.ages.append(age)
        if state.stopped:
            raise Stop(f"the robot has stopped by itself: {state.stopped}")
        if age > watchdog.observation_age:
            raise Stop(f"the robot's last measurement is {1000 * age:.0f} ms old")
        if not (np.isfinite(state.joints).all() and np.isfinite(state.velocities).all()):
            raise Stop("the robot reports joints that are not numbers")
        off = np.abs(state.joints - self.motion.position)
        if off.max() > config.limits.following:
            raise Stop(f"joint {off.argmax() + 1} is {off.max():.3f} rad from where it was commanded to be")
        if config.limits.effort is not None and state.effort is not None and not state.effort <= config.limits.effort:
            raise Stop(f"{state.effort:.3g} {self.loop.robot.spec.effort} on the arm, and {config.limits.effort:g} are allowed")
        if self.pending and (waited := now - min(asked for asked, _ in self.pending.values())) > watchdog.policy:
            raise Stop(f"the policy has not answered for {1000 * waited:.0f} ms")
        return age

    def _ask(self, step: int, state: RobotState) -> dict[str, Array]:
        """Send the policy what it wants to see."""
        loop, tick = self.loop, self.first + step
        obs: dict[str, Array] = {"state": loop._observer.state(state, loop._controller.target)}
        for key, camera in loop.cameras.items():
            taken, image = camera.read()
            if (age := time.monotonic() - taken) > loop.config.watchdog.observation_age:
                raise Stop(f"the last picture of {key} is {1000 * age:.0f} ms old")
            frames = self.past.setdefault(key, deque([image] * loop.policy.spec.frames, loop.policy.spec.frames))
            frames.append(image)  # the first of an episode stands for those before it, as in envs.frames
            obs[key] = np.concatenate(frames, axis=-1)
        if state.privileged is not None:
            obs["privileged"] = state.privileged
        loop.policy.ask(tick, obs, self.instruction)
        self.pending[tick] = time.monotonic(), state.time
        self.out.asked += 1
        return obs

    def _aim(self, answer: Answer, state: RobotState, frame: dict[str, Any]) -> None:
        """Turn an answer into where the joints shall be one control step later."""
        loop, config, out = self.loop, self.loop.config, self.out
        _, measured = self.pending[answer.tick]
        self.pending = {tick: times for tick, times in self.pending.items() if tick > answer.tick}
        frame |= {"answer": answer.tick, "raw": answer.action, "policy_seconds": answer.seconds}
        frame |= {"who": answer.who, "spread": answer.spread, "value": answer.value}
        out.answered += 1
        out.who[answer.who] += 1
        if answer.who == NOBODY:
            raise Stop(f"the policy does not know: spread {answer.spread}, value {answer.value}")
        if answer.action.shape != (len(loop.policy.spec.action.names),) or not np.isfinite(answer.action).all():
            raise Stop(f"the policy's action is not finite: {np.array2string(answer.action, precision=3)}")
        action = np.clip(answer.action, -1, 1)
        if (np.abs(answer.action) > 1 + 1e-6).any():
            out.clamps["action"] += 1
        self.smoothed = safety.smooth(action[:6], self.smoothed, config.smoothing)
        self.opened = safety.grip(float(action[6]), self.opened, config.gripper_hysteresis)
        action = np.append(self.smoothed, 1.0 if self.opened else -1.0)
        self.start, self.since_goal = self.motion.position, 0
        self.goal = loop._controller.step(action, state.joints)
        delay = time.monotonic() - measured
        out.delays.append(delay)
        frame |= {"action": action, "delay": delay}

    def _decide(self, state: RobotState) -> tuple[Array, Verdict]:
        """The next point on the way to the goal [n], and what of it the limits admit."""
        loop = self.loop
        self.since_goal = min(self.since_goal + 1, loop.every)
        wanted = self.start + (self.goal - self.start) * (self.since_goal / loop.every)
        speed = safety.ramp(time.monotonic() - self.began, loop.config.ramp)
        verdict = safety.admit(wanted, self.motion, loop.limits, loop._forward, loop.period, speed)
        self.out.clamps.update(verdict.clamps)
        return wanted, verdict

    def _send(self, motion: Motion, state: RobotState, began: float) -> None:
        """Command, unless it has become too late for that since the tick began."""
        loop = self.loop
        if (wish := loop.emergency()) is not None:
            raise Stop(wish)
        if (late := time.monotonic() - began) > loop.config.watchdog.overruns * loop.period:
            raise Stop(f"a command took {1000 * late:.0f} ms: the computer is too busy")
        if loop.dry_run:  # the arm stays: what is decided next has to begin from there
            motion = Motion(state.joints, np.zeros_like(state.joints))
        else:
            loop.robot.command(motion.position, float(self.opened))
        self.motion = motion
