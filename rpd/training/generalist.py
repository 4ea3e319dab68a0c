"""Distillation of specialists into one generalist: behavior cloning on their episodes, then DAgger iterations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rpd.algorithms.distillation.divergences import DIVERGENCES
from rpd.config.generalist import DistillRun
from rpd.config.schema import DistillConfig
from rpd.core.device import prepare_process
from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json
from rpd.core.seeds import CURVE_SEED, FINAL_SEED
from rpd.core.statistics import wilson
from rpd.envs.errors import ConfigError, NonFiniteError
from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.evaluate import EvalResult, evaluate
from rpd.evaluation.generalist_video import film
from rpd.policies.builtin import StudentPolicy
from rpd.policies.identity import check_same
from rpd.runs import checkpoint
from rpd.runs.paths import FILM
from rpd.runs.progress import report_progress
from rpd.students.actor_critic import ActorCritic
from rpd.students.generalist import GeneralistActorCritic
from rpd.students.io import state_dict
from rpd.training.generalist_data import GeneralistData, check_rows
from rpd.training.generalist_result import base_result, cell_result
from rpd.training.loop import Stop, TrainingLoop, floating_tensors
from rpd.training.lr_schedules import progress_rate
from rpd.training.specialists import Cell

LOG_EVERY = 50
"""Gradient steps per log entry, which holds their means: one wait for the device."""
MAX_GRAD_NORM = 1.0


class GeneralistTrainer(TrainingLoop):
    """One training run of a generalist.

    Args:
        config: the configuration.
        run_dir: run folder.
        cells: the specialists and their environments.
        held: environments of robots without a specialist, for the final evaluation.
        device: device of the student.
        resume: checkpoint to continue from; None: start a run.
        world: ranks of the run: they share each batch, and each records some of the cells.

    Raises:
        ConfigError: an invalid setting, before training starts.
        SpecMismatch: two specialists do not fit into one policy; names both sides.
    """

    config: DistillRun

    def __init__(
        self,
        config: DistillRun,
        run_dir: Path,
        cells: Sequence[Cell],
        held: Sequence[VectorEnv],
        device: torch.device,
        resume: checkpoint.Checkpoint | None = None,
        world: World = SOLO,
    ) -> None:
        super().__init__(config, run_dir, resume, config.save_freq, world=world, track=config.track)
        self.cells, self.held, self.device = list(cells), list(held), device
        if (each := config.batch_size // len(cells)) < world.size:
            raise ConfigError(
                f"batch_size {config.batch_size} is less than one row of each of {len(cells)} specialists for each rank"
            )
        self.share = world.share(each)
        prepare_process(config.seed, config.num_threads)
        self.generator = torch.Generator().manual_seed(config.seed)
        specs = [cell.env.spec for cell in cells]
        check_rows(config, specs)
        if resume is None:
            self.policy = GeneralistActorCritic(specs, config.student, config.generalist).to(device)
        else:
            loaded = ActorCritic.from_pretrained(resume.policy_dir, device)
            assert isinstance(loaded, GeneralistActorCritic)
            self.policy = loaded
        for env in self.held:
            self.policy.adapt_to(env.spec)
        self.data = GeneralistData(config, self.run_dir, cells, self.policy, world)
        world.copy_from_first(self.weights())
        self.divergence = next(variant.fn for variant in DIVERGENCES[config.divergence] if variant.needs <= {"mean", "std"})
        self.divergence_config = DistillConfig(
            divergence=config.divergence, min_teacher_std=config.min_teacher_std, detach_std=config.detach_std
        )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.policy.policy_parameters(), lr=0.0, weight_decay=config.weight_decay)
        self.sources = {cell.name: cell.identity for cell in cells}
        self.gathered: int | None = None  # the stage whose data is in the pool
        self.specialists: dict[str, EvalResult] = {}
        if resume is not None:
            self._load(resume)

    @property
    def total_steps(self) -> int:
        """Gradient steps of all stages."""
        return self.config.total_steps

    @property
    def stage(self) -> int:
        """Stage: 0 for the specialists' episodes, then the number of the DAgger iteration."""
        return next(
            (i for i in range(self.config.dagger_iterations + 1) if self.step < self.config.ends(i)),
            self.config.dagger_iterations,
        )

    def begin(self, stop: Stop) -> None:
        """Evaluate the specialists once, on the episodes of the final evaluation."""
        for cell in self.cells:
            if cell.name not in self.specialists and not stop():
                self.specialists[cell.name] = evaluate(
                    cell.env, cell.teacher, self.config.final_eval_episodes, FINAL_SEED, world=self.world
                )

    def prepare(self, stop: Stop) -> bool:
        """Collect the data of a stage when the stage begins."""
        if stop():
            return False
        if self.gathered == self.stage:
            return True
        if not self.data.gather(self.stage, stop):
            return False
        if self.step == 0:
            self.data.normalize()
        self.gathered = self.stage
        return True

    def evaluation_due(self, before: int) -> bool:
        """Evaluate at the end of every stage."""
        return self.step in (self.config.ends(stage) for stage in range(self.config.dagger_iterations + 1))

    def saving_due(self, before: int) -> bool:
        """Save at the end of every stage, and every `save_freq` steps."""
        return self.evaluation_due(before) or super().saving_due(before)

    def evidence(self) -> dict[str, Tensor]:
        """See `TrainingLoop.evidence`: the student."""
        return state_dict.join({"policy": self.policy.state_dict()})

    # Training --------------------------------------------------------------------------------------------------------

    def iterate(self) -> dict[str, float]:
        """Take gradient steps of a stage; returns mean metrics."""
        config = self.config
        count = min(LOG_EVERY, config.ends(self.stage) - self.step)
        params, rows = self.policy.policy_parameters(), []
        for _ in range(count):
            rate = config.learning_rate * progress_rate(self.step, config.total_steps, 0)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = self.data.pool.draw(self.share, self.generator)
            # KL(specialist || generalist) over each robot's own dimensions, averaged over balanced rows
            student = self.policy.distribution(batch["obs"])
            divergence = self.divergence(
                student.imitation or student, {k: batch[k] for k in ("mean", "std")}, self.divergence_config
            )
            self.optimizer.zero_grad(set_to_none=True)
            divergence = divergence.view(len(self.cells), self.share.count).sum(1) / self.share.total  # this rank's part
            divergence.mean().backward()
            self.world.sum_gradients(params)
            torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM, foreach=True)
            self.optimizer.step()
            rows.append(divergence.detach())
            self.step += 1
            report_progress("learning", len(rows), count)
        means = self.world.sum(torch.stack(rows).mean(0)).tolist()  # [cells]
        metrics = {f"divergence/{cell.name}": value for cell, value in zip(self.cells, means, strict=True)}
        metrics["distill/divergence"] = sum(means) / len(means)
        if not np.isfinite(metrics["distill/divergence"]):
            raise NonFiniteError("loss", ", ".join(name for name, value in metrics.items() if not np.isfinite(value)))
        return metrics | {"distill/learning_rate": rate}

    # Evaluation -------------------------------------------------------------------------------------------------------

    def _evaluate(self, env: VectorEnv, episodes: int, seed: int) -> EvalResult:
        self.policy.adapt_to(env.spec)
        return evaluate(env, StudentPolicy(self.policy, "generalist"), episodes, seed, world=self.world)

    def evaluate(self) -> dict[str, float]:
        """Evaluate the student on every robot; returns success rates per robot and over all."""
        results = [self._evaluate(cell.env, self.config.eval_episodes, CURVE_SEED) for cell in self.cells]
        k, n = sum(r.successes for r in results), sum(r.n for r in results)
        low, high = wilson(k, n)
        each = {f"success/{cell.name}": result.rate for cell, result in zip(self.cells, results, strict=True)}
        return {"eval/success_once": k / n, "eval/success_once_lo": low, "eval/success_once_hi": high, **each}

    def finish(self) -> None:
        """Evaluate the final policy on new episodes, record videos, and write result.json."""
        config = self.config
        rows = [
            cell_result(cell, self._evaluate(cell.env, config.final_eval_episodes, FINAL_SEED), self.specialists[cell.name])
            for cell in self.cells
        ]
        held: list[dict[str, Any]] = []
        for env in self.held:
            student = self._evaluate(env, config.final_eval_episodes, FINAL_SEED)
            base = base_result(self.cells, env, config.final_eval_episodes, self.device, self.world)
            held.append({
                "task": env.spec.task, "robot": env.spec.embodiment.name, "note": self.policy.note,
                "base": base, "generalist": student.to_dict(),
            })  # fmt: skip
        with self.world.together():
            if self.world.is_first:
                self._write_result(rows, held)

    def _write_result(self, rows: list[dict[str, Any]], held: list[dict[str, Any]]) -> None:
        """Record videos, and write the results of the robots with and without a specialist to result.json."""
        config = self.config
        film(self.policy, [cell.env for cell in self.cells] + self.held, self.run_dir / FILM, FINAL_SEED)
        self.policy.adapt_to(self.cells[0].env.spec)
        result = {
            "schema_version": 1, "kind": "generalist", "embodiment": config.generalist.embodiment,
            "network": config.generalist.network, "rounds": config.dagger_iterations, "steps": self.step, "wall_s": self.wall,
            "seed": config.seed, "parameters": self.policy.num_parameters, "data": self.data.summary(), "cells": rows,
            "held_out": held,
        }  # fmt: skip
        write_json(self.run_dir / "result.json", result)

    # Saving --------------------------------------------------------------------------------------------------------

    def weights(self) -> list[Tensor]:
        """See `TrainingLoop.weights`."""
        return floating_tensors(self.policy)

    def save(self) -> None:
        """See `TrainingLoop.save`."""
        self.policy.adapt_to(self.cells[0].env.spec)
        tensors = checkpoint.optimizer_tensors(self.optimizer)
        own = checkpoint.RankState(checkpoint.rng_tensors(self.generator), {})
        meta = {
            "wall": self.wall,
            "sources": self.sources,
            "config": self.config.model_dump(mode="json"),
            "specialists": {name: r.to_full_dict() for name, r in self.specialists.items()},
        }
        checkpoint.save(self.run_dir, self.step, self.policy, tensors, meta, own, self.config.max_checkpoints, self.world)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        check_same(str(self.run_dir), {c.name: str(c.run) for c in self.cells}, saved.meta["sources"], self.sources)
        measured = {name: EvalResult.from_full_dict(r) for name, r in saved.meta["specialists"].items()}
        self.specialists = {name: r for name, r in measured.items() if r.n == self.config.final_eval_episodes}
        checkpoint.load_optimizer(self.optimizer, saved.tensors)
        if saved.own is not None:
            checkpoint.load_rng(saved.own.tensors, self.generator)
        else:
            self.generator.manual_seed(self.config.seed + self.step)
