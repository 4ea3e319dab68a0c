"""Read a deployment recording as episodes, for `rpd.datasets` and `rpd log`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rpd.datasets.deploy_log import format as record
from rpd.datasets.deploy_log.commanded import commanded_actions
from rpd.datasets.deploy_log.corrections import corrected
from rpd.datasets.episode import Array, EpisodeMetadata
from rpd.envs import user_files
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS, Robot
from rpd.envs.specs import EnvSpec
from rpd.teachers.transport.codec import Message

SUFFIX = ".rpdlog"
LOG = logging.getLogger(__name__)
STEPS = ("action", "label", "success", "intervention")


@dataclass
class Played:
    """One episode, without its observations."""

    seed: int
    instruction: str
    ticks: list[Message] = field(default_factory=list)
    """Tick frames, without ``obs``."""
    places: dict[int, int] = field(default_factory=dict)
    """File offset of the frame of each observation, by tick."""
    answers: dict[int, Message] = field(default_factory=dict)
    """Frame with the policy's answer to each observation, by the tick of the observation."""
    end: Message | None = None
    """Frame that ends the episode; None if it was not written, or is lost."""
    outside: dict[str, float] = field(default_factory=dict)
    """State entries of the first observation outside of the training, in standard deviations."""
    cut: bool = False
    """Whether frames after the last tick are lost, including the outcome."""

    @property
    def answered(self) -> list[int]:
        """Ticks of the observations that were answered by an action that moved the robot, in order."""
        return [tick for tick in self.places if "command" in self.answers.get(tick, {})]

    @property
    def fault(self) -> str | None:
        """Reason why a fault, or a person, ended the episode; None for another end, or an unknown one."""
        return None if self.end is None or not self.end["fault"] else self.end["reason"]


class Record:
    """A recorded deployment, as a `rpd.datasets.reader.Source`: one row per observation and its action.

    Attributes:
        head: frame that describes the deployment.
        spec: spec of the robot as seen by the policy.
        supervised: whether an operator could take over; the policy's own steps are then no demonstrations.
        played: all started episodes; one whose first frame is lost is omitted, because its instruction is unknown.
        lost: descriptions of damaged parts.
        left_out: descriptions of the episodes that are no demonstrations, because a fault or a person ended them.
        episodes: metadata of the other episodes with at least one row.
    """

    def __init__(self, path: Path) -> None:
        """Read everything but the observations.

        Raises:
            ConfigError: not a recording, or its first frame is lost.
        """
        self.path = path
        self.played: list[Played] = []
        self.head: Message = {}
        self.lost: list[str] = []
        self._headless = False
        for place, frame in record.scan(path):
            if isinstance(frame, record.Gap):
                self._miss(place, frame)
            else:
                self._take(place, frame)
        if not self.head:
            said = "its first frame is damaged" if self.lost else "nothing but its first line could be written"
            raise ConfigError(f"{path}: {said}")
        for line in self.lost:
            LOG.warning("%s: damaged: %s", path, line)
        self.spec = EnvSpec.model_validate_json(self.head["spec"])
        self.specs = {self.spec.task: self.spec}
        self.supervised = self.head.get("operator") is not None
        user_files.record((*self.head.get("imports", ()), *self.spec.imports), str(path))
        self.left_out = [f"episode {i} was stopped: {p.fault}" for i, p in enumerate(self.played) if p.fault is not None]
        self._rows = [played for played in self.played if played.answered and played.fault is None]
        self._actions: dict[int, Array] = {}  # by episode
        self.episodes = [self._info(played) for played in self._rows]

    @property
    def robot(self) -> Robot:
        """Description of the robot.

        Raises:
            ConfigError: it is unknown; names the file of the deployment that registers it, to be imported.
        """
        name = self.spec.embodiment.name
        if name not in ROBOTS:
            raise user_files.unknown(f"robot in {self.path}", name, ROBOTS)
        return ROBOTS[name]

    def _take(self, place: int, frame: Message) -> None:
        kind = frame["kind"]
        if kind == "head":
            self.head = frame
        elif kind == "episode":
            self._headless = False
            self.played.append(Played(frame["seed"], frame["instruction"]))
        elif self._headless or self._is_of_another(frame):
            self._headless = True
        elif kind == "end":
            self.played[-1].end = frame
        elif kind == "outside":
            self.played[-1].outside = frame["entries"]
        elif kind == "stop_failure":  # the end frame has it, too
            return
        else:
            played = self.played[-1]
            played.cut = False
            if frame.pop("obs", None) is not None:
                played.places[frame["tick"]] = place
            if "answer" in frame:
                played.answers[frame["answer"]] = frame
            played.ticks.append(frame)

    def _is_of_another(self, frame: Message) -> bool:
        """Whether a frame belongs to an episode whose first frame is lost: it follows an end, or its time goes backwards."""
        if not self.lost:
            return False
        last = self.played[-1] if self.played else None
        if last is None or last.end is not None:
            return True
        return frame["kind"] == "tick" and bool(last.ticks) and frame["time"] <= last.ticks[-1]["time"]

    def _miss(self, place: int, gap: record.Gap) -> None:
        """Record a gap and its position."""
        where = "before the first episode"
        if self.played:
            last = self.played[-1]
            tick = f"after tick {last.ticks[-1]['tick']}" if last.ticks else "at its beginning"
            where, last.cut = f"in or behind episode {len(self.played)}, {tick}", last.end is None
        self.lost.append(f"{gap.size:,} bytes at byte {place:,} are lost, {where}; what is sound behind them is read")

    def _info(self, played: Played) -> EpisodeMetadata:
        success = None if played.cut else played.ticks[-1].get("success")
        return EpisodeMetadata(self.spec.task, played.instruction, played.seed, success, len(played.answered))

    def keys(self, episode: int) -> list[str]:
        """See `rpd.datasets.reader.Source`."""
        missing = {"success"} if self.episodes[episode].success is None else set()
        missing |= set() if self.supervised else {"intervention"}
        steps = [key for key in STEPS if key not in missing]
        return [*self.observation(self._rows[episode], self._rows[episode].answered[0]), *steps]

    def state_names(self, episode: int) -> tuple[str, ...]:
        """See `rpd.datasets.reader.Source`."""
        return self.spec.state_names

    def control_hz(self, episode: int) -> float:
        """See `rpd.datasets.reader.Source`."""
        return self.spec.control_hz

    def where(self, episode: int) -> str:
        """See `rpd.datasets.reader.Source`."""
        return f"{self.path}, episode {episode}"

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """See `rpd.datasets.reader.Source`."""
        played = self._rows[episode]
        ticks = played.answered if steps is None else [played.answered[i] for i in steps]
        if key not in STEPS:
            return np.stack([self.observation(played, tick)[key] for tick in ticks])
        if key == "action":
            return self._commanded(episode)[slice(None) if steps is None else list(steps)]
        if key == "intervention":
            frames = [played.answers[tick] for tick in played.answered]
            return corrected(frames, self.spec.control_hz)[slice(None) if steps is None else list(steps)]
        frames = [played.answers[tick] for tick in ticks]
        if key == "success":
            return np.array([frame["success"] for frame in frames])
        return np.stack([np.clip(frame["raw"], -1, 1) for frame in frames]).astype(np.float32)

    def _commanded(self, episode: int) -> Array:
        """Actions [T, A] of an episode after the safety layer.

        Raises:
            ConfigError: the robot is unknown.
        """
        if episode not in self._actions:
            played = self._rows[episode]
            taken = [played.answers[tick]["tick"] for tick in played.answered]
            self._actions[episode] = commanded_actions(played.ticks, taken, self.robot, self.spec.action.scale)
        return self._actions[episode]

    def observation(self, played: Played, tick: int) -> dict[str, Array]:
        """Observation of the policy at a tick, an array per key."""
        return record.read_at(self.path, played.places[tick])["obs"]
