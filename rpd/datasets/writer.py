"""One trajectory file, as ManiSkill's RecordEpisode writes it, episode by episode.

    traj_<id>/actions [T, A], labels [T, A], rewards [T], terminated [T], truncated [T], success [T]
              obs [T + 1, S]                                                          states alone (obs_mode "state")
              obs/state [T + 1, S], obs/sensor_data/<camera>/rgb [T + 1, H, W, 3]     with images (obs_mode "state+rgb")
              obs/privileged [T + 1, D]                                               where it was asked for

``labels`` and ``privileged`` are ours. HDF5 files do not survive a crash while they are open: an episode goes into a hidden
file as it ends, which gets its name when it is complete and on the disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from envs.base import EnvConfig
from envs.specs import EnvSpec
from rpd.atomic import write_json
from rpd.demos.episode import EpisodeInfo, require
from rpd.demos.record import Take
from rpd.demos.recording import Round
from students.files import sync_folder

STEPS = {"action": "actions", "label": "labels", "reward": "rewards"}
"""How the file calls what `rpd.demos.episode.STEP_KEYS` calls otherwise."""
CONTROL_MODES = {"joint": "pd_joint_delta_pos"}
"""What simulators take unless told otherwise, by the frame of the actions; of an end effector, pd_ee_delta_pose."""
GZIP_LEVEL = 4
"""Of images, one frame per chunk: 64 x 64 tabletop frames shrink 16-fold; higher levels save little, and cost much."""


class RoundWriter:
    """Writes the episodes of one round into one trajectory file. A context manager: without `close`, nothing is left.

    Args:
        folder: where.
        number: of the round.
        spec: the environment's.
        config: how it was built.
        policy: who acted, in words.
    """

    def __init__(self, folder: Path, number: int, spec: EnvSpec, config: EnvConfig, policy: str) -> None:
        label = re.sub(r"[^\w.-]+", "-", spec.task)
        self.path = folder / f"trajectory.{label}.{number:04d}.h5"
        self.spec, self.config, self.policy = spec, config, policy
        self.temporary = folder / f".{self.path.name}.tmp"
        self.file = require("h5py").File(self.temporary, "w")
        self.takes: list[tuple[int, int, EpisodeInfo]] = []

    def add(self, take: Take) -> None:
        """Write an episode to the disk."""
        play, env, episode = take
        group = self.file.create_group(_name(play, env))
        if set(episode.obs) == {"state"}:
            group["obs"] = episode.obs["state"]
        else:
            for key, value in episode.obs.items():
                if key.startswith("image."):
                    name, chunk = f"obs/sensor_data/{key.removeprefix('image.')}/rgb", (1, *value.shape[1:])
                    group.create_dataset(name, data=value, chunks=chunk, compression="gzip", compression_opts=GZIP_LEVEL)
                else:
                    group[f"obs/{key}"] = value
        for key, value in episode.steps.items():
            group[STEPS.get(key, key)] = value
        self.takes.append((play, env, episode.info))

    def count(self, plays: int) -> int:
        """Episodes so far of the first `plays` plays of every environment."""
        return sum(play < plays for play, *_ in self.takes)

    def close(self, first_id: int, limit: int, attempts: int, successes: int, cut: bool) -> Round:
        """Give the file its name.

        Args:
            first_id: number of the first episode.
            limit: episodes to keep at most, in the order of their places in the round.
            attempts: episodes that were played.
            successes: how many of them were solved.
            cut: whether the round could have given more.
        """
        takes = sorted(self.takes, key=lambda take: take[:2])
        for play, env, _ in takes[limit:]:
            del self.file[_name(play, env)]
        kept = takes[:limit]
        for i, (play, env, _) in enumerate(kept, first_id):
            self.file.move(_name(play, env), f"traj_{i}")
        self.file.close()
        if not kept:
            self.temporary.unlink()
            return Round(file=None, size=0, episodes=0, steps=0, attempts=attempts, successes=successes, cut=cut)
        with self.temporary.open("rb") as file:
            os.fsync(file.fileno())
        write_json(self.path.with_suffix(".json"), self._meta([info for *_, info in kept], first_id))
        os.replace(self.temporary, self.path)
        sync_folder(self.path.parent)
        return Round(
            file=self.path.name,
            size=self.path.stat().st_size,
            episodes=len(kept),
            steps=sum(info.length for *_, info in kept),
            attempts=attempts,
            successes=successes,
            cut=cut,
        )

    def _meta(self, infos: list[EpisodeInfo], first_id: int) -> dict[str, Any]:
        """What ManiSkill keeps beside a trajectory file; `env_spec` and `instruction` are ours."""
        return {
            "env_info": {
                "env_id": self.spec.task,
                "env_kwargs": self.config.model_dump(mode="json", exclude_none=True),
                "max_episode_steps": self.spec.max_episode_steps,
                "env_spec": self.spec.model_dump(mode="json"),
            },
            "source_type": "rpd",
            "source_desc": self.policy,
            "episodes": [
                {
                    "episode_id": i,
                    "episode_seed": info.seed,
                    "reset_kwargs": {"seed": info.seed},
                    "control_mode": self.config.control_mode or CONTROL_MODES.get(self.spec.action.frame, "pd_ee_delta_pose"),
                    "elapsed_steps": info.length,
                    "success": info.success,
                    "instruction": info.instruction,
                }
                for i, info in enumerate(infos, first_id)
            ],
        }

    def __enter__(self) -> RoundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


def _name(play: int, env: int) -> str:
    return f"play_{play}_{env}"
