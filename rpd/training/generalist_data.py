"""Training data of a generalist: episodes of specialists and of the generalist, labeled by specialists, one file per stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.config.generalist import DistillRun
from rpd.core import memory
from rpd.core.distributed import SOLO, World
from rpd.core.memory import Item
from rpd.core.seeds import TRAIN_SEED
from rpd.datasets import specialists
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.policies.identity import check_same
from rpd.rollout.batch import joined
from rpd.students.generalist import BODY, GeneralistActorCritic
from rpd.training.loop import Stop
from rpd.training.specialist_rollouts import Player, generalist_plays, specialists_play
from rpd.training.specialists import Cell

OWN_SEEDS, STAGE_SEEDS = 5_000_000, 10_000
"""First episode seed, above the specialists' training seeds, and the offset between stages."""


def check_rows(config: DistillRun, specs: Sequence[EnvSpec]) -> None:
    """Check that the episodes and the batch fit into memory.

    Raises:
        ConfigError: they do not fit; states the required and the available memory.
    """
    episodes = config.episodes + (config.dagger_iterations * config.round_episodes if config.aggregate_dataset else 0)
    rows = [sum(math.prod(o.shape) * (1 if o.dtype == "uint8" else 4) for o in spec.observations.values()) for spec in specs]
    # lower estimate: solved episodes end early, assumed at a tenth of the time limit
    played = sum(episodes * spec.max_episode_steps * row // 10 for spec, row in zip(specs, rows, strict=True))
    items = [
        Item("episodes", f"{episodes:,} of each of {len(specs)} specialists", played, torch.device("cpu"), certain=False),
        Item("batch", f"{config.batch_size:,} rows", config.batch_size * max(rows), torch.device("cpu"), certain=False),
    ]
    memory.check(items, "the training data", "lower episodes, round_episodes, dagger_iterations or batch_size")


class GeneralistData:
    """Records each stage to ``data/`` in the run folder and fills the pool of training rows.

    Args:
        config: the configuration.
        run_dir: run folder.
        cells: the specialists and their environments.
        policy: the student.
        world: ranks of the run. Rank r records the cells r, r + size, ...; all read all recordings.
    """

    def __init__(
        self, config: DistillRun, run_dir: Path, cells: Sequence[Cell], policy: GeneralistActorCritic, world: World = SOLO
    ) -> None:
        self.world = world
        self.config, self.run_dir, self.cells, self.policy = config, run_dir, list(cells), policy
        self.robot_ios = [policy.layout.robot_io(cell.env.spec) for cell in cells]
        self.pool = specialists.Pool(self.robot_ios, policy.device)

    def gather(self, stage: int, stop: Stop) -> bool:
        """Fill the pool for a stage, from existing files or by recording; returns False if stopped."""
        config = self.config
        own = self.cells[self.world.rank :: self.world.size]
        recorded = True
        with self.world.together():
            if not all(self.path(stage, cell).exists() for cell in own):
                recorded = self._record(stage, own, stop)
        if self.world.any(not recorded):
            return False
        if not config.aggregate_dataset:
            self.pool.clear()
        first = 0 if config.aggregate_dataset and self.pool.empty else stage
        for s in range(first, stage + 1):
            for i, cell in enumerate(self.cells):
                rows = self._read(s, cell).rows
                # Failed generalist episodes contain states that need labels; failed specialist episodes contain wrong labels.
                weight = torch.where(rows["success"], 1.0, config.failed_episode_weight if s == 0 else 1.0)
                if not bool((weight > 0).any()):
                    raise ConfigError(f"specialist {cell.run} solved no episode, and failed_episode_weight is 0: leave it out")
                self.pool.add(i, rows, weight)
        return True

    def normalize(self) -> None:
        """Set the student's normalization to the statistics of the first stage."""
        states = [specialists.read(self.path(0, cell)).rows["state"] for cell in self.cells]
        moments = specialists.moments(states, self.robot_ios)
        self.policy.set_normalization(*(x.to(self.policy.device) for x in moments))

    def _read(self, stage: int, cell: Cell) -> specialists.Recording:
        """Read a cell's recording of a stage.

        Raises:
            ConfigError: the recording was labeled by another version of the specialist.
        """
        path = self.path(stage, cell)
        found = specialists.read(path)
        check_same(str(path), {"specialist": str(cell.run)}, {"specialist": found.source}, {"specialist": cell.identity})
        return found

    def path(self, stage: int, cell: Cell) -> Path:
        """Return the path of a cell's recording of a stage."""
        return self.run_dir / "data" / f"{stage:02d}-{cell.name}.safetensors"

    def _record(self, stage: int, cells: Sequence[Cell], stop: Stop) -> bool:
        """Record a stage's episodes on this rank's cells; returns False if stopped."""
        config = self.config
        seed = TRAIN_SEED * (1 + config.seed) + OWN_SEEDS + stage * STAGE_SEEDS
        episodes = config.round_episodes if stage else config.episodes
        index = {cell.name: i for i, cell in enumerate(self.cells)}
        bodies = [self.robot_ios[index[cell.name]] for cell in cells]
        columns = [body.columns[body.present] for body in bodies]
        players = [Player(cell, episodes, seed, own) for cell, own in zip(cells, columns, strict=True)]
        if stage:
            played = generalist_plays(players, lambda running: self._act(running, index), stop.here)
        else:
            played = all(specialists_play(player, stop.here) for player in players)
        if not played:
            return False
        for player, own in zip(players, columns, strict=True):
            path = self.path(stage, player.cell)
            names = [player.cell.env.spec.state_names[i] for i in own.tolist()]
            specialists.write(path, player.result(), *player.solved, config.storage, names, player.cell.identity or "")
        return True

    def _act(self, players: list[Player], index: dict[str, int]) -> list[Tensor]:
        """Return the student's actions on several robots, from one forward pass: [N, A'] per player."""
        rows = []
        for player in players:
            i = index[player.cell.name]
            obs = {key: player.obs[key] for key in player.cell.env.spec.cameras}
            obs["state"] = player.obs["state"][:, self.robot_ios[i].columns]
            obs[BODY] = torch.full((len(obs["state"]),), i)
            rows.append(TensorDict(obs, batch_size=[len(obs["state"])]))
        mode = self.policy.distribution(joined(rows).to(self.policy.device)).mode().clamp(-1, 1)
        parts = mode.split([len(row) for row in rows])
        return [
            part[:, self.robot_ios[index[player.cell.name]].dims.to(part.device)].to(player.cell.env.device)
            for part, player in zip(parts, players, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Return the numbers of frames, bytes and solved episodes of every stage."""
        stages = []
        for stage in range(self.config.dagger_iterations + 1):
            files = [specialists.read(self.path(stage, cell)) for cell in self.cells]
            stages.append({
                "frames": sum(len(f.rows) for f in files), "bytes": sum(f.size for f in files),
                "solved": sum(f.solved for f in files), "episodes": sum(f.episodes for f in files),
            })  # fmt: skip
        frames, size = sum(s["frames"] for s in stages), sum(s["bytes"] for s in stages)
        return {"frames": frames, "bytes_per_frame": size / frames, "stages": stages}
