"""Write trajectory files in the layout of ManiSkill's RecordEpisode, episode by episode.

    traj_<id>/actions [T, A], labels [T, A], rewards [T], terminated [T], truncated [T], success [T]
              obs [T + 1, S]                                                          states alone (obs_mode "state")
              obs/state [T + 1, S], obs/sensor_data/<camera>/rgb [T + 1, H, W, 3]     with images (obs_mode "state+rgb")
              obs/privileged [T + 1, D]                                               with `privileged`

``labels`` and ``privileged`` are extensions. An open HDF5 file does not survive a crash, so episodes are written to a hidden
file, which is renamed once it is complete and on disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

from rpd.core.files import write_json
from rpd.datasets.dataset_dir import Round
from rpd.datasets.episode import EpisodeMetadata, require
from rpd.datasets.recorder import Take
from rpd.envs.config import EnvConfig
from rpd.envs.specs import EnvSpec
from rpd.students.io.files import file_digest, sync_folder

STEPS = {"action": "actions", "label": "labels", "reward": "rewards"}
"""Dataset names of the keys of `rpd.datasets.episode.STEP_KEYS` that differ from them."""
CONTROL_MODES = {"joint": "pd_joint_delta_pos"}
"""ManiSkill's default controller by the frame of the actions; for an end effector, pd_ee_delta_pose."""
GZIP_LEVEL = 4
"""Compression of images, one frame per chunk: 64 x 64 tabletop frames shrink 16-fold; higher levels save little."""


class RoundWriter:
    """Writes the episodes of one round into one trajectory file. A context manager: without `close`, no file is left.

    Args:
        folder: destination.
        number: number of the round.
        spec: spec of the environment.
        config: configuration of the environment.
        policy: description of the policy.
    """

    def __init__(self, folder: Path, number: int, spec: EnvSpec, config: EnvConfig, policy: str) -> None:
        label = re.sub(r"[^\w.-]+", "-", spec.task)
        self.path = folder / f"trajectory.{label}.{number:04d}.h5"
        self.spec, self.config, self.policy = spec, config, policy
        self.temporary = folder / f".{self.path.name}.tmp"
        self.file = require("h5py").File(self.temporary, "w")
        self.takes: list[tuple[int, int, EpisodeMetadata]] = []

    def add(self, take: Take) -> None:
        """Write an episode to disk."""
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
        """Number of episodes so far among the first `plays` plays of every environment."""
        return sum(play < plays for play, *_ in self.takes)

    def close(self, first_id: int, limit: int, attempts: int, successes: int, cut: bool) -> Round:
        """Complete the file and give it its final name.

        Args:
            first_id: number of the first episode.
            limit: maximum number of episodes, in the order of their places in the round.
            attempts: number of episodes played.
            successes: number of episodes solved.
            cut: whether the round ended early.
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
            return Round(file=None, episodes=0, steps=0, attempts=attempts, successes=successes, cut=cut)
        with self.temporary.open("rb") as file:
            os.fsync(file.fileno())
        write_json(self.path.with_suffix(".json"), self._meta([info for *_, info in kept], first_id))
        os.replace(self.temporary, self.path)
        sync_folder(self.path.parent)
        return Round(
            file=self.path.name,
            digests={path.name: file_digest(path) for path in (self.path, self.path.with_suffix(".json"))},
            episodes=len(kept),
            steps=sum(info.length for *_, info in kept),
            attempts=attempts,
            successes=successes,
            cut=cut,
        )

    def _meta(self, infos: list[EpisodeMetadata], first_id: int) -> dict[str, Any]:
        """Content of the JSON file in ManiSkill's format; `env_spec` and `instruction` are extensions."""
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
