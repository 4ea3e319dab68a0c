"""Control loop of a deployment: runs episodes, stops the robot after each, and records what happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from rpd.datasets.deploy_log.format import Recorder
from rpd.deploy.cameras import ImageSource
from rpd.deploy.clock import Clock, RealClock
from rpd.deploy.collision import CollisionChecker
from rpd.deploy.config import RobotConfig
from rpd.deploy.context import EpisodeContext
from rpd.deploy.controller import Controller
from rpd.deploy.episode import EpisodeRunner
from rpd.deploy.observe import Observer
from rpd.deploy.operators.base import Operator
from rpd.deploy.outcome import Outcome, Stop
from rpd.deploy.policy import PolicyProcess
from rpd.deploy.robots.base import RobotDriver
from rpd.deploy.safety import Unsafe
from rpd.deploy.summary import format_outside
from rpd.envs.control.arm import Arm
from rpd.envs.errors import RunFault
from rpd.envs.robots import ROBOTS
from rpd.export.actors import outside_training

LOG = logging.getLogger(__name__)
STOP_ATTEMPTS, STOP_PAUSE = 20, 0.05
"""Number of stop commands before the robot is given up, and seconds between them."""


class ControlLoop:
    """Deploys one policy on one robot, episode by episode.

    Attributes:
        context: parts and constants shared by the episodes.
    """

    def __init__(
        self,
        robot: RobotDriver,
        policy: PolicyProcess,
        cameras: Mapping[str, ImageSource],
        config: RobotConfig,
        recorder: Recorder,
        emergency: Callable[[], str | None],
        dry_run: bool = False,
        clock: Clock | None = None,
        operator: Operator | None = None,
    ) -> None:
        """Assemble the parts; nothing moves.

        Args:
            robot: connected driver.
            policy: loaded policy.
            cameras: by observation key, e.g. ``image.front``.
            config: config of the robot; its rate is a multiple of the policy's.
            recorder: writes every tick.
            emergency: returns a reason to stop, or None; called at every tick.
            dry_run: compute and record commands without sending them.
            clock: time of the loop; default: real time.
            operator: takes over from the policy, if any.

        Raises:
            ConfigError: the policy does not fit the robot.
        """
        description = ROBOTS[config.kinematics]
        arm, limits = Arm(description), config.safety_limits()
        body = CollisionChecker(description, config.limits.clearance, config.limits.boxes)
        self.context = EpisodeContext(
            robot=robot,
            policy=policy,
            cameras=cameras,
            config=config,
            recorder=recorder,
            emergency=emergency,
            dry_run=dry_run,
            operator=operator,
            limits=limits,
            period=1 / config.rate,
            ticks_per_action=round(config.rate / policy.spec.control_hz),
            body=body,
            observer=Observer(policy.spec.state_names, arm, robot.spec.tracked),
            controller=Controller(description, arm, policy.spec.action, limits, 1 / policy.spec.control_hz),
            clock=clock or RealClock(),
        )
        self._tick = 0  # over all episodes, so that a late answer to an earlier episode is recognized

    def run(self, max_steps: int, instruction: str, until_solved: bool) -> Outcome:
        """Run an episode from the robot's current posture.

        Args:
            max_steps: maximum number of policy actions.
            instruction: language instruction, for policies that use one.
            until_solved: end the episode when the robot reports success.

        Returns:
            Its outcome. The robot is stopped in every case.
        """
        ticks = max_steps * self.context.ticks_per_action
        episode = EpisodeRunner(self.context, instruction, self._tick)
        out = episode.out
        try:
            episode.begin()
            out.outside = self._outside_training()
            for step in range(ticks):
                episode.tick(step)
                if until_solved and out.success:
                    out.reason = "solved"
                    break
            else:
                out.reason = "time is up"
        except (Stop, Unsafe, RunFault) as stop:
            out.reason, out.fault = str(stop), True
        except Exception as error:  # an SDK's own, or a fault of ours: the episode still ends with its record
            LOG.exception("the episode ends by an unexpected error")
            out.reason, out.fault = f"{type(error).__name__}: {error}", True
        finally:
            out.stopped_at, out.stop_failure = self.stop()
        if out.stop_failure is not None:
            out.fault = True
        if out.fault:  # at once: closing an SDK that is out of order takes seconds, or crashes
            LOG.error(f"the episode ends: {out.reason}")
        self._tick += ticks
        return out

    def stop(self) -> tuple[float, str | None]:
        """Stop the robot.

        Any exception counts as a refusal: SDKs raise their own, and a traceback here would hide that the robot may still move.

        Returns:
            `time.monotonic` after the command that was taken, and None; or after the first one, and the reason why the robot
            took none of `STOP_ATTEMPTS`.
        """
        failure: str | None = None
        first: float | None = None
        for attempt in range(0 if self.context.dry_run else STOP_ATTEMPTS):
            if attempt:
                time.sleep(STOP_PAUSE)
            try:
                self.context.robot.stop()
                return time.monotonic(), None
            except Exception as error:
                failure = " ".join(str(error).split()) or type(error).__name__
                if first is None:  # at once: a person can act before the other attempts are over
                    first = time.monotonic()
                    LOG.critical(f"THE ROBOT DOES NOT TAKE THE STOP COMMAND, USE ITS EMERGENCY STOP ({failure})")
                    self.record({"kind": "stop_failure", "reason": failure})
        return time.monotonic() if first is None else first, failure

    def _outside_training(self) -> dict[str, float]:
        """Compare the first observation with the training, see `rpd.export.actors.outside_training`; logs and records."""
        context = self.context
        if context.policy.training is None:
            return {}
        names = context.policy.spec.state_names
        state = context.observer.state(context.robot.read(), context.controller.target)
        outside = outside_training(state, names, context.policy.training)
        if outside:
            LOG.warning(f"the robot begins outside of what the policy was trained on: {format_outside(outside)}")
            self.record({"kind": "outside", "entries": outside})
        return outside

    def record(self, frame: dict[str, Any]) -> None:
        """Record a frame other than a tick, if recording is still possible."""
        self.context.record(frame)
