"""The loop of distillation: specialists play, the student learns; then it plays, its specialists label, and it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from envs.base import VectorEnv
from envs.errors import ConfigError, NonFiniteError, SpecMismatch
from rpd import checkpoint
from rpd.atomic import write_json
from rpd.batch import joined
from rpd.cloning.trainer import progress_rate
from rpd.config import DistillConfig
from rpd.distill.divergences import DIVERGENCES
from rpd.evaluate import EvalResult, compare, evaluate
from rpd.generalist import data
from rpd.generalist.cells import Cell
from rpd.generalist.config import DistillRun
from rpd.generalist.film import FILM, film
from rpd.generalist.play import Player, generalist_plays, specialists_play
from rpd.interrupt import Interrupt
from rpd.policies import StudentPolicy
from rpd.stats import wilson
from rpd.track import Tracker, record_settings
from rpd.trainer import CURVE_SEED, FINAL_SEED, TRAIN_SEED
from students import flat
from students.actor_critic import ActorCritic
from students.generalist import BODY, GeneralistActorCritic
from students.locate import resolve_policy
from students.residual import ResidualActorCritic

LOG_EVERY = 50
"""Gradient steps whose mean is one entry of the record: one wait for the device."""
OWN_SEEDS, STAGE_SEEDS = 5_000_000, 10_000
"""Where the seeds of episodes begin, beyond those that specialists trained on, and how far stages are apart."""
MAX_GRAD_NORM = 1.0


class GeneralistTrainer:
    """One run, from specialists and a folder.

    Args:
        config: the configuration.
        run_dir: the run's folder.
        cells: the specialists and their environments.
        held: environments of robots without a specialist, for the final evaluation.
        device: where the student computes.
        resume: checkpoint to continue from; None starts.

    Raises:
        ConfigError, SpecMismatch: what cannot be one policy, before training starts; names both sides.
    """

    def __init__(
        self,
        config: DistillRun,
        run_dir: Path,
        cells: Sequence[Cell],
        held: Sequence[VectorEnv],
        device: torch.device,
        resume: checkpoint.Checkpoint | None = None,
    ) -> None:
        self.config, self.run_dir, self.cells, self.held, self.device = config, run_dir, list(cells), list(held), device
        if config.batch_size < len(cells):
            raise ConfigError(f"batch_size {config.batch_size} cannot hold a row of each of {len(cells)} specialists")
        torch.set_num_threads(config.num_threads or 1)
        torch.manual_seed(config.seed)
        np.random.seed(config.seed % 2**32)
        self.generator = torch.Generator().manual_seed(config.seed)
        specs = [cell.env.spec for cell in cells]
        if resume is None:
            self.policy = GeneralistActorCritic(specs, config.student, config.generalist).to(device)
        else:
            loaded = ActorCritic.from_pretrained(resume.policy_dir, device)
            assert isinstance(loaded, GeneralistActorCritic)
            self.policy = loaded
        for env in self.held:
            self.policy.fit(env.spec)
        self.bodies = [self.policy.layout.body(spec) for spec in specs]
        self.pool = data.Pool(self.bodies, device)
        self.divergence = next(form.fn for form in DIVERGENCES[config.divergence] if form.needs <= {"mean", "std"})
        self.knobs = DistillConfig(
            divergence=config.divergence, teacher_std=config.teacher_std, detach_std=config.detach_std
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.policy.acting_parameters(), lr=0.0, weight_decay=config.weight_decay)
        self.step, self.wall = 0, 0.0
        self.specialists: dict[str, EvalResult] = {}
        if resume is not None:
            self._load(resume)
        self.resume_step = None if resume is None else self.step

    def run(self) -> bool:
        """Distil to the end, or until interrupted; returns whether the run is complete.

        Raises:
            RunFault: NaN or infinity.
            OSError: the run's folder cannot be written; the last good checkpoint is intact.
        """
        config = self.config
        record_settings(self.run_dir, config)
        with Interrupt() as interrupt, Tracker(self.run_dir, config.total_steps, self.resume_step) as tracker:
            for cell in self.cells:
                if cell.name not in self.specialists and not interrupt.requested:
                    self.specialists[cell.name] = evaluate(cell.env, cell.teacher, config.final_episodes, FINAL_SEED)
            for stage in range(config.rounds + 1):
                if self.step >= config.ends(stage):
                    continue
                if interrupt.requested or not self._gather(stage, lambda: interrupt.requested):
                    break
                while self.step < config.ends(stage) and not interrupt.requested:
                    metrics = self._advance(min(LOG_EVERY, config.ends(stage) - self.step))
                    if self.step == config.ends(stage):
                        metrics |= self._check()
                    tracker.log(self.step, metrics)
                    if self.step == config.ends(stage) or self.step % config.checkpoint_every < LOG_EVERY:
                        self._save()
            complete = self.step >= config.total_steps
            if not complete:
                self._save()
        if complete:
            self._finish()
        return complete

    # What is learnt from -------------------------------------------------------------------------------------------

    def _gather(self, stage: int, stop: Callable[[], bool]) -> bool:
        """Fill the pool for a stage, from files where they are there; returns False where it was stopped."""
        config = self.config
        paths = [self.path(stage, cell) for cell in self.cells]
        if not all(path.exists() for path in paths) and not self._record(stage, paths, stop):
            return False
        if not config.aggregate:
            self.pool.clear()
        first = 0 if config.aggregate and self.pool.empty else stage
        for s in range(first, stage + 1):
            for i, cell in enumerate(self.cells):
                rows = data.read(self.path(s, cell)).rows
                # Where the generalist failed is what it has to learn from; how a specialist failed is not.
                weight = torch.where(rows["success"], 1.0, config.failure_weight if s == 0 else 1.0)
                if not bool((weight > 0).any()):
                    raise ConfigError(f"specialist {cell.run} solved nothing, and failure_weight is 0: leave it out")
                self.pool.add(i, rows, weight)
        if self.step == 0:
            states = [data.read(path).rows["state"] for path in paths]
            self.policy.whiten(*(x.to(self.device) for x in data.moments(states, self.bodies)))
        return True

    def path(self, stage: int, cell: Cell) -> Path:
        """Where what a cell's specialist said in a stage is."""
        return self.run_dir / "data" / f"{stage:02d}-{cell.name}.safetensors"

    def _record(self, stage: int, paths: list[Path], stop: Callable[[], bool]) -> bool:
        config = self.config
        seed = TRAIN_SEED * (1 + config.seed) + OWN_SEEDS + stage * STAGE_SEEDS
        episodes = config.round_episodes if stage else config.episodes
        columns = [body.columns[body.present] for body in self.bodies]
        players = [Player(cell, episodes, seed, own) for cell, own in zip(self.cells, columns, strict=True)]
        if stage:
            index = {cell.name: i for i, cell in enumerate(self.cells)}
            played = generalist_plays(players, lambda running: self._act(running, index), stop)
        else:
            played = all(specialists_play(player, stop) for player in players)
        if not played:
            return False
        for path, player, own in zip(paths, players, columns, strict=True):
            names = [player.cell.env.spec.state_names[i] for i in own.tolist()]
            data.write(path, player.result(), *player.solved, config.storage, names)
        return True

    def _act(self, players: list[Player], index: dict[str, int]) -> list[Tensor]:
        """What the student does, on several robots in one forward pass: [N, A'] for each player."""
        rows = []
        for player in players:
            i = index[player.cell.name]
            obs = {key: player.obs[key] for key in player.cell.env.spec.cameras}
            obs["state"] = player.obs["state"][:, self.bodies[i].columns]
            obs[BODY] = torch.full((len(obs["state"]),), i)
            rows.append(TensorDict(obs, batch_size=[len(obs["state"])]))
        mode = self.policy.distribution(joined(rows).to(self.device)).mode().clamp(-1, 1)
        parts = mode.split([len(row) for row in rows])
        return [
            part[:, self.bodies[index[player.cell.name]].dims.to(part.device)].to(player.cell.env.device)
            for part, player in zip(parts, players, strict=True)
        ]

    # A step --------------------------------------------------------------------------------------------------------

    def _advance(self, count: int) -> dict[str, float]:
        """Take gradient steps; returns means over them."""
        config, began = self.config, time.perf_counter()
        each = config.batch_size // len(self.cells)
        params, rows = self.policy.acting_parameters(), []
        for _ in range(count):
            rate = config.lr * progress_rate(self.step, config.total_steps, 0)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = self.pool.draw(each, self.generator)
            # KL(specialist || generalist) over each robot's own dimensions, averaged over balanced rows
            student = self.policy.distribution(batch["obs"])
            divergence = self.divergence(student.taught or student, {k: batch[k] for k in ("mean", "std")}, self.knobs)
            self.optimizer.zero_grad(set_to_none=True)
            divergence.mean().backward()
            torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM, foreach=True)
            self.optimizer.step()
            rows.append(divergence.detach().view(len(self.cells), each).mean(1))
            self.step += 1
        means = torch.stack(rows).mean(0).tolist()  # [cells]
        metrics = {f"divergence/{cell.name}": value for cell, value in zip(self.cells, means, strict=True)}
        metrics["distill/divergence"] = sum(means) / len(means)
        if not np.isfinite(metrics["distill/divergence"]):
            raise NonFiniteError("loss", ", ".join(name for name, value in metrics.items() if not np.isfinite(value)))
        seconds = time.perf_counter() - began
        self.wall += seconds
        return metrics | {"distill/lr": rate, "time/sps": count / seconds, "time/wall": self.wall}

    # Judging -------------------------------------------------------------------------------------------------------

    def _evaluate(self, env: VectorEnv, episodes: int, seed: int) -> EvalResult:
        self.policy.fit(env.spec)
        return evaluate(env, StudentPolicy(self.policy, "generalist"), episodes, seed)

    def _check(self) -> dict[str, float]:
        """Look at how the student does on every robot."""
        results = [self._evaluate(cell.env, self.config.eval_episodes, CURVE_SEED) for cell in self.cells]
        k, n = sum(r.successes for r in results), sum(r.n for r in results)
        low, high = wilson(k, n)
        each = {f"success/{cell.name}": result.rate for cell, result in zip(self.cells, results, strict=True)}
        return {"eval/success": k / n, "eval/success_lo": low, "eval/success_hi": high, **each}

    def _finish(self) -> None:
        """Judge the final policy on fresh episodes, film it, and write result.json."""
        config, rows = self.config, []
        for cell in self.cells:
            student, specialist = self._evaluate(cell.env, config.final_episodes, FINAL_SEED), self.specialists[cell.name]
            rows.append(
                {
                    "task": cell.task, "robot": cell.robot, "run": str(cell.run), "base": cell.result().get("base_eval"),
                    "specialist": specialist.to_dict(), "generalist": student.to_dict(),
                    "paired": vars(compare(student, specialist)),
                    "outcomes": [[a.success_once, b.success_once] for a, b in
                                 zip(student.episodes, specialist.episodes, strict=True)],
                }
            )  # fmt: skip
        held: list[dict[str, Any]] = []
        for env in self.held:
            student = self._evaluate(env, config.final_episodes, FINAL_SEED)
            held.append({
                "task": env.spec.task, "robot": env.spec.embodiment.name, "note": self.policy.note,
                "base": self._base_on(env), "generalist": student.to_dict(),
            })  # fmt: skip
        film(self.policy, [cell.env for cell in self.cells] + self.held, self.run_dir / FILM, FINAL_SEED)
        self.policy.fit(self.cells[0].env.spec)
        result = {
            "schema_version": 1, "kind": "generalist", "embodiment": config.generalist.embodiment,
            "network": config.generalist.network, "rounds": config.rounds, "steps": self.step, "wall_s": self.wall,
            "seed": config.seed, "parameters": self.policy.num_parameters, "data": self._data(), "cells": rows,
            "held_out": held,
        }  # fmt: skip
        write_json(self.run_dir / "result.json", result)

    def _base_on(self, env: VectorEnv) -> dict[str, Any] | None:
        """How the base of the task's specialists does on a robot that was held out, where it fits."""
        cell = next(cell for cell in self.cells if cell.task == env.spec.task)
        specialist = ActorCritic.from_pretrained(resolve_policy(cell.run), self.device)
        base = specialist.base if isinstance(specialist, ResidualActorCritic) else None
        if base is None:
            return None
        try:
            base.fit(env.spec)
        except SpecMismatch:
            return None
        return evaluate(env, StudentPolicy(base, "base"), self.config.final_episodes, FINAL_SEED).to_dict()

    def _data(self) -> dict[str, Any]:
        """How much was stored."""
        stages = []
        for stage in range(self.config.rounds + 1):
            files = [data.read(self.path(stage, cell)) for cell in self.cells]
            stages.append({
                "frames": sum(len(f.rows) for f in files), "bytes": sum(f.size for f in files),
                "solved": sum(f.solved for f in files), "episodes": sum(f.episodes for f in files),
            })  # fmt: skip
        frames, size = sum(s["frames"] for s in stages), sum(s["bytes"] for s in stages)
        return {"frames": frames, "bytes_per_frame": size / frames, "stages": stages}

    # Saving --------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.policy.fit(self.cells[0].env.spec)
        optimizer, rng = checkpoint.optimizer_tensors(self.optimizer), checkpoint.rng_tensors(self.generator)
        tensors = flat.join({"optimizer": optimizer, "rng": rng})
        meta = {"wall": self.wall, "specialists": {name: r.to_full_dict() for name, r in self.specialists.items()}}
        checkpoint.save(self.run_dir, self.step, self.policy, tensors, meta, keep=self.config.keep_checkpoints)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        self.step, self.wall = saved.step, saved.meta["wall"]
        self.specialists = {name: EvalResult.from_full_dict(r) for name, r in saved.meta["specialists"].items()}
        checkpoint.load_optimizer(self.optimizer, flat.part(saved.tensors, "optimizer"))
        checkpoint.load_rng(flat.part(saved.tensors, "rng"), self.generator)
