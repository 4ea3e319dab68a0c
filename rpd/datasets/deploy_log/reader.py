"""A record, read back: its episodes, as `rpd.demos` and the replay need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from envs.errors import ConfigError
from envs.specs import EnvSpec
from rpd.demos.episode import Array, EpisodeInfo
from rpd.deploy import record
from teachers.wire.codec import Message

SUFFIX = ".rpdlog"
STEPS = ("action", "label", "success")


@dataclass
class Played:
    """One episode, without its observations."""

    seed: int
    instruction: str
    ticks: list[Message] = field(default_factory=list)
    """Frames of all ticks, without ``obs``."""
    places: dict[int, int] = field(default_factory=dict)
    """Where the frame with each observation is, by tick."""
    answers: dict[int, Message] = field(default_factory=dict)
    """The frame in which each observation was answered, by the tick of the observation."""
    end: Message | None = None
    """The frame that ends it; None where nothing could be written any more."""

    @property
    def answered(self) -> list[int]:
        """The ticks of the observations that were answered by an action, in order."""
        return [tick for tick in self.places if "action" in self.answers.get(tick, {})]


class Record:
    """A deployment as it was recorded. A `rpd.demos.reader.Source`: a row is an observation, and what was done about it.

    Attributes:
        head: the frame that describes it.
        spec: what the robot offered to the policy.
        played: every episode that was begun.
        episodes: those with a row at least.
    """

    def __init__(self, path: Path) -> None:
        """Read all but the observations.

        Raises:
            ConfigError: no record, or one whose first frame is lost.
        """
        self.path = path
        self.played: list[Played] = []
        self.head: Message = {}
        for place, frame in record.places(path):
            self._take(place, frame)
        if not self.head:
            raise ConfigError(f"{path}: nothing but its first line could be written")
        self.spec = EnvSpec.model_validate_json(self.head["spec"])
        self.specs = {self.spec.task: self.spec}
        self._rows = [played for played in self.played if played.answered]
        self.episodes = [self._info(played) for played in self._rows]

    def _take(self, place: int, frame: Message) -> None:
        kind = frame["kind"]
        if kind == "head":
            self.head = frame
        elif kind == "episode":
            self.played.append(Played(frame["seed"], frame["instruction"]))
        elif kind == "end":
            self.played[-1].end = frame
        else:
            played = self.played[-1]
            if frame.pop("obs", None) is not None:
                played.places[frame["tick"]] = place
            if "answer" in frame:
                played.answers[frame["answer"]] = frame
            played.ticks.append(frame)

    def _info(self, played: Played) -> EpisodeInfo:
        success = played.ticks[-1].get("success")
        return EpisodeInfo(self.spec.task, played.instruction, played.seed, success, len(played.answered))

    def keys(self, episode: int) -> list[str]:
        """See `rpd.demos.reader.Source`."""
        known = self.episodes[episode].success is not None
        return [*self.observation(self._rows[episode], self._rows[episode].answered[0]), *STEPS[: 3 if known else 2]]

    def state_names(self, episode: int) -> tuple[str, ...]:
        """See `rpd.demos.reader.Source`."""
        return self.spec.state_names

    def control_hz(self, episode: int) -> float:
        """See `rpd.demos.reader.Source`."""
        return self.spec.control_hz

    def read(self, episode: int, key: str, steps: Sequence[int] | None = None) -> Array:
        """See `rpd.demos.reader.Source`."""
        played = self._rows[episode]
        ticks = played.answered if steps is None else [played.answered[i] for i in steps]
        if key not in STEPS:
            return np.stack([self.observation(played, tick)[key] for tick in ticks])
        frames = [played.answers[tick] for tick in ticks]
        if key == "success":
            return np.array([frame["success"] for frame in frames])
        name = {"action": "action", "label": "raw"}[key]
        return np.stack([np.clip(frame[name], -1, 1) for frame in frames]).astype(np.float32)

    def observation(self, played: Played, tick: int) -> dict[str, Array]:
        """What the policy was asked at a tick, an array per key."""
        return record.read_at(self.path, played.places[tick])["obs"]
