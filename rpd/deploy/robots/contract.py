"""The contract of robot drivers, as checks: for `rpd robot contract`, and for the tests of a driver.

    from rpd.deploy import config
    from rpd.deploy.robots.contract import check, require

    def test_my_robot_keeps_the_contract():
        robot = config.load("my_robot.yaml")
        require(check(lambda: MyRobot(robot, host="192.168.0.10"), robot))

The arm moves: each joint by `STEP`, through the safety layer with the limits of the robot file, see `rpd.deploy.slow_motion`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rpd.deploy.config import RobotConfig
from rpd.deploy.monitor import check_age, check_finite
from rpd.deploy.outcome import Stop
from rpd.deploy.robots.base import Array, RobotDriver, RobotLost, RobotState
from rpd.deploy.robots.fits import check_fits
from rpd.deploy.safety import Unsafe
from rpd.deploy.slow_motion import SlowMotion
from rpd.envs.errors import ConfigError

STEP = 0.03
"""Motion of each joint, rad."""
FOLLOWS = 0.015
"""Largest distance of a joint from its command after the motion, rad."""
STILL = 0.005
"""Largest motion of a joint that counts as rest, rad."""
GRIPPER_STILL = 0.05
"""Largest change of the opening of a gripper without a command."""
WATCHED = 1.0
"""Time for which measurements are watched, s."""


@dataclass(frozen=True)
class Finding:
    """Result of one clause of the contract."""

    clause: str
    kept: bool | None
    """None: not checked."""
    detail: str = ""


class ContractBroken(AssertionError):
    """A driver breaks a clause; the message names it."""


class _Broken(Exception):
    """A clause is broken; the message gives the reason."""


@dataclass
class Subject:
    """Driver under test, and how it is used."""

    robot: RobotDriver
    make: Callable[[], RobotDriver]
    config: RobotConfig
    begin: Callable[[RobotDriver], None]
    emergency: Callable[[], str | None]
    freeze: Callable[[], None] | None

    @property
    def period(self) -> float:
        """Time between commands, s."""
        return 1 / self.config.rate

    def reads(self, seconds: float) -> list[tuple[float, float, RobotState]]:
        """Time before and after each read, and the state, at the rate of the robot file."""
        found, until = [], time.monotonic() + seconds
        while (began := time.monotonic()) < until:
            state = self.robot.read()
            found.append((began, time.monotonic(), state))
            time.sleep(max(0.0, began + self.period - time.monotonic()))
        return found


def check(
    make: Callable[[], RobotDriver],
    config: RobotConfig,
    *,
    moves: bool = True,
    begin: Callable[[RobotDriver], None] = lambda robot: None,
    emergency: Callable[[], str | None] = lambda: None,
    freeze: Callable[[], None] | None = None,
) -> list[Finding]:
    """Check a driver clause by clause; the first broken clause ends the check.

    Args:
        make: makes a driver, unconnected.
        config: config of the robot.
        moves: whether commands move the robot; False: nothing is commanded.
        begin: called after `connect`, e.g. to start an episode of a simulated robot.
        emergency: returns a reason to stop, or None.
        freeze: ends the robot's stream of measurements while its connection stays open.

    Returns:
        A finding per clause. The robot is stopped and the driver closed.
    """
    findings, clauses = list[Finding](), _clauses(moves, freeze is not None)
    subject = Subject(make(), make, config, begin, emergency, freeze)
    with contextlib.ExitStack() as stack:
        stack.callback(subject.robot.close)
        for clause, look in clauses:
            if look is None:
                findings.append(Finding(clause, None))
                continue
            try:
                findings.append(Finding(clause, True, look(subject) or ""))
            except (_Broken, Stop, Unsafe, RobotLost, ConfigError) as broken:
                findings.append(Finding(clause, False, str(broken)))
                break
            except Exception as error:
                findings.append(Finding(clause, False, f"{type(error).__name__}: {error}"))
                break
        if findings[-1].kept is False and moves and len(findings) > CONNECTED:
            with contextlib.suppress(Exception):  # the broken clause is what is reported
                subject.robot.stop()
    return findings


def require(findings: Sequence[Finding]) -> None:
    """Raise if a clause is broken.

    Raises:
        ContractBroken: names it.
    """
    for finding in findings:
        if finding.kept is False:
            raise ContractBroken(f"{finding.clause}: {finding.detail}")


Look = Callable[[Subject], str | None]
CONNECTED = 2
"""Number of clauses before the driver is connected."""


def _clauses(moves: bool, freezes: bool) -> Iterator[tuple[str, Look | None]]:
    """Clauses in the order of their checks, with None for those that cannot be checked."""
    yield "close() without connect() does nothing", _close_first
    yield "connect() moves nothing", _connect if moves else _connect_only
    yield "the spec fits the robot file", _spec
    yield "read() returns n finite joints, and an opening from 0 to 1", _measurements
    yield "read() does not wait", _read_quickly
    yield "measurements are fresh, and their times do not go back", _fresh
    yield f"command() moves each joint, by {STEP:g} rad and back, and does not wait", _command if moves else None
    yield "stop() brings the arm to rest and holds it; later commands do nothing", _stop if moves else _stop_only
    yield "measurements of a stream that has ended grow old", _freeze if freezes else None
    yield "close() can be repeated", _close


def _close_first(subject: Subject) -> None:
    subject.make().close()


def _connect_only(subject: Subject) -> None:
    subject.robot.connect()
    subject.begin(subject.robot)


def _connect(subject: Subject) -> str:
    _connect_only(subject)
    moved = _moved([state for *_, state in subject.reads(WATCHED / 2)])
    if moved > STILL:
        raise _Broken(f"a joint moved by {moved:.4f} rad after connect()")
    return f"{moved:.4f} rad"


def _spec(subject: Subject) -> None:
    check_fits(subject.robot, subject.config)


def _measurements(subject: Subject) -> None:
    robot, state = subject.robot, subject.robot.read()
    count = len(robot.spec.joints)
    for name in ("joints", "velocities"):
        if np.shape(getattr(state, name)) != (count,):
            raise _Broken(f"{name} have shape {list(np.shape(getattr(state, name)))}, and there are {count} joints")
    check_finite(state)
    if not 0 <= state.gripper <= 1:
        raise _Broken(f"the gripper's opening is {state.gripper:g}")
    if (state.effort is None) != (robot.spec.effort is None):
        raise _Broken(f"effort is {state.effort}, and the spec's unit {robot.spec.effort}")
    if missing := set(robot.spec.tracked) - set(state.tracked):
        raise _Broken(f"tracked lacks {', '.join(sorted(missing))}")


def _read_quickly(subject: Subject) -> str:
    spent = float(np.median([after - before for before, after, _ in subject.reads(WATCHED)]))
    return _within_half(spent, subject)


def _fresh(subject: Subject) -> str:
    reads = subject.reads(WATCHED)
    times = np.array([state.time for *_, state in reads])
    for _, after, state in reads:
        check_age(after - state.time, subject.config.watchdog.observation_age, "a measurement")
    if (np.diff(times) < 0).any():
        raise _Broken("the time of a measurement is before that of an earlier one")
    ages = [after - state.time for _, after, state in reads]
    return f"{1000 * max(ages):.1f} ms old at most, {len(set(times.tolist()))} measurements in {WATCHED:g} s"


def _command(subject: Subject) -> str:
    motion = SlowMotion(subject.robot, subject.config, subject.emergency)
    limits, start = subject.config.safety_limits(), motion.posture
    spent, worst = list[float](), 0.0
    openings = [subject.robot.read().gripper]
    for joint in range(len(start)):
        goal = start.copy()
        goal[joint] += STEP if start[joint] + STEP <= limits.upper[joint] else -STEP
        for target in (goal, start):
            trace = motion.to(target)
            spent += trace.calls
            openings += trace.gripper
            off = np.abs(trace.measured[-1] - target)
            if off.max() > FOLLOWS:
                raise _Broken(f"joint {off.argmax() + 1} is {off.max():.3f} rad from its command, {joint + 1} was moved")
            worst = max(worst, float(off.max()))
    if np.ptp(openings) > GRIPPER_STILL:
        raise _Broken(f"the gripper moved by {np.ptp(openings):.2f} without a command")
    return f"followed within {worst:.4f} rad; " + _within_half(float(np.median(spent)), subject)


def _stop(subject: Subject) -> str:
    robot, motion = subject.robot, SlowMotion(subject.robot, subject.config, subject.emergency)
    limits, goal = subject.config.safety_limits(), motion.posture.copy()
    sign = 1.0 if goal[-1] + 2 * STEP <= limits.upper[-1] else -1.0
    goal[-1] += sign * STEP
    motion.to(goal, settle=0.0)
    robot.stop()
    robot.stop()
    time.sleep(subject.config.stop_within)
    if (moved := _moved([state for *_, state in subject.reads(WATCHED / 2)])) > STILL:
        raise _Broken(f"a joint moved by {moved:.4f} rad after stop()")
    before: Array = robot.read().joints
    for _ in range(5):
        with contextlib.suppress(RobotLost):  # refusing the command is right, too
            robot.command(before + sign * STEP * (np.arange(len(before)) == len(before) - 1), None)
        time.sleep(subject.period)
    time.sleep(WATCHED / 2)
    if (moved := float(np.abs(robot.read().joints - before).max())) > STILL:
        raise _Broken(f"a command after stop() moved a joint by {moved:.4f} rad")
    return f"{moved:.4f} rad"


def _stop_only(subject: Subject) -> None:
    subject.robot.stop()
    subject.robot.stop()


def _freeze(subject: Subject) -> str:
    assert subject.freeze is not None
    subject.freeze()
    time.sleep(WATCHED / 2)
    try:
        state = subject.robot.read()
    except RobotLost as error:
        return f"read() raises: {error}"
    age = time.monotonic() - state.time
    if state.stopped is None and age < WATCHED / 4:
        raise _Broken(f"{1000 * age:.0f} ms old, {WATCHED / 2:g} s after the last measurement: see rpd.deploy.robots.freshness")
    return f"{1000 * age:.0f} ms old"


def _close(subject: Subject) -> None:
    subject.robot.close()
    subject.robot.close()


def _within_half(spent: float, subject: Subject) -> str:
    """Detail of a duration in s, the median of many.

    Raises:
        _Broken: it is more than half a period.
    """
    if spent > subject.period / 2:
        raise _Broken(f"a call takes {1000 * spent:.1f} ms (median), more than half a period of {1000 * subject.period:g} ms")
    return f"{1000 * spent:.2f} ms (median)"


def _moved(states: Sequence[RobotState]) -> float:
    """Largest motion of a joint, rad."""
    return float(np.ptp([state.joints for state in states], axis=0).max())
