"""The loop of a diffusion policy: draw, loss, step, average, log, evaluate, save."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from envs import registry as envs
from envs.errors import ConfigError, RunFault
from rpd import checkpoint
from rpd.atomic import write_json
from rpd.cloning.trainer import progress_rate
from rpd.config import RunConfig
from rpd.diffusion.data import ChunkSource
from rpd.evaluate import EvalResult, evaluate
from rpd.imitation import DemoSource
from rpd.interrupt import Interrupt
from rpd.results import run_result
from rpd.track import Tracker, read_metrics, record_settings
from rpd.trainer import CURVE_SEED, FINAL_SEED, eval_config, make_teacher, resolve_device
from students import flat
from students.diffusion.actor import DiffusionActor
from students.diffusion.ema import Average
from students.diffusion.policy import DiffusionPolicy

LOG_EVERY = 20
"""Gradient steps whose mean is one entry of the record."""
MAX_GRAD_NORM = 1.0


class DiffusionTrainer:
    """One run, from a configuration and a folder. A step is a row of demonstrations that is learnt from, as in any `bc`.

    Args:
        config: the resolved configuration, with ``student.kind: diffusion``.
        run_dir: the run's folder.
        resume: checkpoint to continue from; None starts.

    Raises:
        ConfigError: anything that cannot work, before training starts.
    """

    exact_resume = True

    def __init__(self, config: RunConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None) -> None:
        if config.mode != "bc":
            raise ConfigError(
                f"student.kind diffusion learns from demonstrations alone: use mode bc with --demos, not {config.mode}"
            )
        if config.init is not None or config.base is not None:
            raise ConfigError("student.kind diffusion starts from random weights: leave out --init and the base")
        self.config, self.run_dir = config, Path(run_dir)
        self.device = torch.device(resolve_device(config.device))
        torch.set_num_threads(config.num_threads or 1)
        torch.manual_seed(config.seed)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        together = eval_config(config.task, config.env, config.eval_episodes)
        self.env = envs.make(config.task, together, self.device, config.num_threads)
        make_teacher(config, self.env)  # says that there is none
        self.policy = DiffusionPolicy(self.env.spec, config.student, config.diffusion).to(self.device)
        source = DemoSource(config.demos, self.env.spec, config.student, self.generator)
        self.data = ChunkSource(source, config.diffusion.n_obs, config.diffusion.horizon)
        if resume is None:
            self.policy.prepare(self.data.states.to(self.device), self.data.actions.to(self.device))
        self.average = Average(self.policy, config.denoise.ema)
        DiffusionActor(self.average.network, config.denoise.sampler)  # a sampler that does not fit is told now
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=config.denoise.weight_decay, fused=True
        )
        self.updates, self.wall = 0, 0.0
        if resume is not None:
            self._load(resume)
        self.resume_step = None if resume is None else self.step

    @property
    def step(self) -> int:
        """Rows that were learnt from."""
        return self.updates * self.config.denoise.batch_size

    def run(self) -> bool:
        """Train to the end, or until interrupted; returns whether the run is complete. Closes the environment.

        Raises:
            RunFault: the loss became NaN or infinite.
            OSError: the run's folder cannot be written; the last good checkpoint is intact.
        """
        config = self.config
        record_settings(self.run_dir, config)
        try:
            with Interrupt() as interrupt, Tracker(self.run_dir, config.total_steps, self.resume_step) as tracker:
                while self.step < config.total_steps and not interrupt.requested:
                    before = self.step
                    metrics = self.advance()
                    if self._due(config.eval_every, before):
                        metrics |= self._evaluate(CURVE_SEED, config.eval_episodes).metrics()
                    tracker.log(self.step, metrics)
                    if self._due(config.checkpoint_every, before):
                        self._save()
            complete = self.step >= config.total_steps
            if complete:
                self._finish()
            else:
                self._save()
            return complete
        finally:
            self.env.close()

    def advance(self) -> dict[str, float]:
        """Take up to `LOG_EVERY` gradient steps; returns means over them."""
        config, began, losses = self.config.denoise, time.perf_counter(), []
        whole = math.ceil(self.config.total_steps / config.batch_size)
        for _ in range(min(LOG_EVERY, whole - self.updates)):
            for group in self.optimizer.param_groups:
                group["lr"] = config.lr * progress_rate(self.updates, whole, config.warmup)
            window, actions = self.data.draw(config.batch_size)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.policy.loss(self.policy.encode_window(window), actions, self.generator)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            self.average.update(self.policy, self.updates)
            losses.append(loss.detach())
            self.updates += 1
        mean = torch.stack(losses).mean().item()
        if not math.isfinite(mean):
            raise RunFault(f"the loss became {mean} at {self.step:,} steps: lower --denoise.lr; the last checkpoint is sound")
        seconds = time.perf_counter() - began
        self.wall += seconds
        rate = len(losses) * config.batch_size / seconds
        return {"denoise/loss": mean, "denoise/lr": group["lr"], "time/sps": rate, "time/wall": self.wall}

    def _due(self, every: int, before: int) -> bool:
        """Whether a multiple of `every` was passed since step `before`, or the run is complete."""
        return self.step // every > before // every or self.step >= self.config.total_steps

    def _evaluate(self, seed: int, episodes: int) -> EvalResult:
        with torch.random.fork_rng():
            return evaluate(self.env, DiffusionActor(self.average.network, self.config.denoise.sampler), episodes, seed)

    def _finish(self) -> None:
        """Judge the final policy on fresh episodes and write result.json."""
        student = self._evaluate(FINAL_SEED, self.config.final_episodes)
        result = run_result(self.config, self.env.spec, self.step, self.wall, read_metrics(self.run_dir), student)
        write_json(self.run_dir / "result.json", result)

    def _save(self) -> None:
        optimizer, rng = checkpoint.optimizer_tensors(self.optimizer), checkpoint.rng_tensors(self.generator)
        tensors = flat.join({"network": self.policy.state_dict(), "optimizer": optimizer, "rng": rng})
        meta = {"updates": self.updates, "wall": self.wall}
        checkpoint.save(self.run_dir, self.step, self.average.network, tensors, meta, keep=self.config.keep_checkpoints)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        self.updates, self.wall = saved.meta["updates"], saved.meta["wall"]
        self.policy.load_state_dict(flat.part(saved.tensors, "network"))
        self.average.network.load_state_dict(DiffusionPolicy.from_pretrained(saved.policy_dir).state_dict())
        checkpoint.load_optimizer(self.optimizer, flat.part(saved.tensors, "optimizer"))
        checkpoint.load_rng(flat.part(saved.tensors, "rng"), self.generator)
