"""`rpd bench safety`: adversarial commands through the safety layer of every robot file, and the time that it takes.

Commands are judged by the arm's kinematics and by all distances between its parts, in each commanded posture and between two of
them, not by the safety layer's own bounds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from rpd.bench.result import Cell, Column
from rpd.deploy import config as configs
from rpd.deploy import safety
from rpd.deploy.collision import CollisionChecker
from rpd.deploy.collision_model import Box
from rpd.deploy.config import RobotConfig
from rpd.deploy.safety import JointCommand, Unsafe
from rpd.envs.control.arm import Arm, Array
from rpd.envs.control.limit_config import robot_files
from rpd.envs.robots import ROBOTS

EPISODE = 100  # commands
RATES = (20.0, 100.0)  # commands per second, besides the file's own
LATE = 0.05  # share of commands that are late, by 1 to 3 periods
TICKS = 5  # most commands between two goals
TIMED = 0.1  # share of commands whose time is measured: reading the clock of the processor time takes long
SCENES = 3  # per robot file: none, and two with random boxes
ROUNDING = 1e-6

Adversary = Callable[["Case", np.random.Generator], Array]


@dataclass
class Usage:
    """Largest use of each limit, as a fraction of it; above 1 it is violated."""

    commands: int = 0
    limits: dict[str, float] = field(default_factory=dict)
    clamps: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Processor time of a tenth of the commands."""
    checks: list[float] = field(default_factory=list)
    """Of it, time for collisions."""

    def note(self, limit: str, values: Array | float) -> None:
        """Record uses of a limit."""
        self.limits[limit] = max(self.limits.get(limit, 0.0), float(np.max(values)))

    @property
    def violated(self) -> list[str]:
        """Violated limits."""
        return [name for name, used in self.limits.items() if used > 1 + ROUNDING]


class TimedChecker(CollisionChecker):
    """Counts the processor time of its checks in `seconds`, by `clock`."""

    seconds = 0.0
    clock: Callable[[], float] = staticmethod(time.thread_time)

    def collision(self, way: Array) -> safety.Near | None:
        """See `CollisionChecker`."""
        began = self.clock()
        found = super().collision(way)
        self.seconds += self.clock() - began
        return found


class Case:
    """A robot file, a rate and obstacles, and the state of the arm.

    Args:
        name: robot file.
        body: its geometry.
    """

    def __init__(self, name: str, body: TimedChecker) -> None:
        config = configs.load(name)
        self.robot, self.body, self.limits = ROBOTS[config.kinematics], body, config.safety_limits()
        self.arm, self.clearance, self.rate, self.period = Arm(self.robot), config.limits.clearance, config.rate, 0.0
        self.command = JointCommand(np.array(self.robot.home), np.zeros(len(self.robot.home)))
        self.stream: list[tuple[Array, int]] = []  # postures, and the periods since the one before
        self.approach: Array = np.zeros(len(self.robot.home))  # direction of `_approach`

    def start(self, random: np.random.Generator) -> None:
        """Choose a rate, and a posture near the home posture that is within the limits."""
        self.period = 1 / random.choice((self.rate, *RATES))
        home = np.array(self.robot.home)
        for spread in (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0):
            try:
                posture = np.clip(home + random.normal(0, spread, len(home)), self.limits.lower, self.limits.upper)
                self.command = safety.initial_command(posture, np.zeros(len(home)), self.limits, self.body)
                self.stream = [(posture, 1)]
                return
            except Unsafe:
                continue
        raise AssertionError(f"{self.robot.name}: its home posture is outside of its limits")

    def step(self, wanted: Array, missed: int, speed: float, random: np.random.Generator, usage: Usage) -> None:
        """Filter one command, after `missed` late periods."""
        before, limits, period = self.command, self.limits, self.period
        timed = random.random() < TIMED
        self.body.clock = time.thread_time if timed else float  # always 0
        self.body.seconds, began = 0.0, self.body.clock()
        now = before
        if missed:
            measured = before.velocity * random.uniform(-0.5, 1.5) + random.choice((0.0, 1.0)) * random.normal(size=len(wanted))
            now = safety.after_gap(before, measured, missed, limits, self.body, period)
        filtered = safety.filter_command(wanted, now, limits, self.body, period, speed, int(random.integers(1, TICKS + 1)))
        if timed:
            usage.seconds.append(self.body.clock() - began)
            usage.checks.append(self.body.seconds)
        usage.clamps.update(filtered.clamps)
        usage.commands += 1
        self.command = filtered.command
        self.stream.append((self.command.position, 1 + missed))

    def judge(self, random: np.random.Generator, usage: Usage) -> None:
        """Note the use of every limit by the stream of commands and the braking after it, and by postures between commands."""
        limits, period = self.limits, self.period
        self.stream += [(posture, 1) for posture in safety.braking(self.command, limits, period)]
        postures, passed = np.array([posture for posture, _ in self.stream]), np.array([periods for _, periods in self.stream])
        middle, half = (limits.upper + limits.lower) / 2, (limits.upper - limits.lower) / 2
        velocity = np.diff(postures, axis=0) / period
        change = np.abs(np.diff(velocity, axis=0, prepend=0 * postures[:1])) - 1e-9  # from rest
        usage.note("position", np.abs(postures - middle) / half)
        usage.note("velocity", np.abs(velocity) / limits.velocity)
        usage.note("acceleration", change / (limits.acceleration * period * passed[1:, None]))
        tcp, rotation = self.arm.forward(postures)
        low, high = limits.box
        usage.note("workspace", np.abs(tcp - (low + high) / 2) / ((high - low) / 2))
        usage.note("tcp_speed", np.linalg.norm(np.diff(tcp, axis=0), axis=1) / (limits.tcp_speed * period))
        usage.note("tilt", np.arccos(np.clip(-rotation[:, 2, 2], -1, 1)) / limits.tilt)
        between = postures[:-1] + random.random((len(postures) - 1, 1)) * np.diff(postures, axis=0)
        nearest = [near.distance for near in self.body.nearest(np.concatenate((postures, between)))]
        usage.note("clearance", self.clearance / max(min(nearest), 1e-9))


def measure(commands: int, seed: int = 0, names: Sequence[str] | None = None) -> Iterator[tuple[str, Usage]]:
    """Send adversarial commands through the safety layer.

    Args:
        commands: commands per robot file; rounded up to whole episodes.
        seed: seed of the random numbers.
        names: robot files; None: all that are shipped.

    Yields:
        The name of each file, and the use of its limits.
    """
    for number, name in enumerate(names or robot_files()):
        random, usage = np.random.default_rng((seed, number)), Usage()
        config = configs.load(name)
        scenes = [_boxes(config, random) if scene else {} for scene in range(SCENES)]
        cases = [Case(name, TimedChecker(ROBOTS[config.kinematics], config.limits.clearance, boxes)) for boxes in scenes]
        while usage.commands < commands:
            case, adversary = cases[random.integers(SCENES)], ADVERSARIES[random.integers(len(ADVERSARIES))]
            case.start(random)
            first = random.uniform(0.05, 1.0)
            for tick in range(EPISODE):
                missed = int(random.integers(1, 4)) if random.random() < LATE else 0
                speed = min(1.0, first + tick / EPISODE)
                case.step(adversary(case, random), missed, speed, random, usage)
            case.judge(random, usage)
        yield name, usage


COLUMNS = (
    Column("robot file"), Column("commands", ",d"),
    *(Column(name, ".4f") for name in ("position", "velocity", "acceleration", "workspace", "tcp_speed", "tilt", "clearance")),
    Column("collision clamps", ".1%"),
    *(Column(f"{what} ms: {q}", ".3f") for what in ("check", "command") for q in ("50 %", "99 %", "max")),
)  # fmt: skip


def cells(name: str, usage: Usage) -> list[Cell]:
    """Cells of a table row."""
    times = [float(1000 * x) for each in (usage.checks, usage.seconds) for x in np.quantile(each, (0.5, 0.99, 1))]
    return [name, usage.commands, *usage.limits.values(), usage.clamps["collision"] / usage.commands, *times]


def verdict(usages: Sequence[Usage]) -> str:
    """Sentence about all commands."""
    total, violated = sum(usage.commands for usage in usages), sorted({name for usage in usages for name in usage.violated})
    return f"{total:,} commands: {'VIOLATED: ' + ', '.join(violated) if violated else 'every limit kept'}"


def _boxes(config: RobotConfig, random: np.random.Generator) -> dict[str, Box]:
    """Three boxes on the table, in the workspace, that leave the home posture free."""
    robot, found = ROBOTS[config.kinematics], dict[str, Box]()
    (x0, x1), (y0, y1), (_, z1) = config.limits.workspace
    while len(found) < 3:
        x, y = random.uniform((x0, y0), (x1, y1))
        dx, dy, height = random.uniform(0.01, 0.06), random.uniform(0.01, 0.06), random.uniform(0.02, z1)
        box: Box = ((x - dx, x + dx), (y - dy, y + dy), (0.0, height))
        if CollisionChecker(robot, config.limits.clearance, {"box": box}).too_near(np.array(robot.home)) is None:
            found[f"box {len(found)}"] = box
    return found


def _anywhere(case: Case, random: np.random.Generator) -> Array:
    return random.uniform(case.limits.lower, case.limits.upper)


def _jumps(case: Case, random: np.random.Generator) -> Array:
    return case.command.position + random.normal(0, 3, len(case.command.position))


def _extremes(case: Case, random: np.random.Generator) -> Array:
    """Full speed in a direction that sometimes turns around."""
    turn = -1.0 if random.random() < 0.1 else 1.0
    moving = np.where(case.command.velocity == 0, random.choice((-1.0, 1.0), len(case.command.velocity)), case.command.velocity)
    return case.command.position + 10.0 * turn * np.sign(moving)


def _dive(case: Case, random: np.random.Generator) -> Array:
    """Down, with a sideways motion, and a rolling of the tool."""
    jacobian = np.concatenate([part[0] for part in case.arm.jacobian(case.command.position[None])])
    twist = np.concatenate((random.normal(0, 0.3, 2), [-1.0], random.normal(0, 2.0, 3)))
    return case.command.position + np.linalg.pinv(jacobian, rcond=1e-2) @ twist


def _approach(case: Case, random: np.random.Generator) -> Array:
    """The joint motion that brings the nearest parts together fastest, computed in every fifth command."""
    posture, step = case.command.position, 1e-4
    if random.random() < 0.2:
        near = [near.distance for near in case.body.nearest(np.vstack((posture, posture + step * np.eye(len(posture)))))]
        gradient = (np.array(near[1:]) - near[0]) / step
        case.approach = -gradient / max(float(np.abs(gradient).max()), 1e-6)
    return posture + 10.0 * case.approach + random.normal(0, 0.05, len(posture))


ADVERSARIES: tuple[Adversary, ...] = (_anywhere, _jumps, _extremes, _dive, _approach)
