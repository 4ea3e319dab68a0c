"""The loop of behaviour cloning: draw, loss, step, log, check, save; in the end the model plays."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from envs import registry as envs
from envs.base import EnvConfig
from envs.errors import ConfigError, NonFiniteError
from rpd import checkpoint
from rpd.atomic import write_json
from rpd.cloning.config import CloneConfig
from rpd.cloning.data import CloneData, action_space, camera_of
from rpd.cloning.learners import build, learning_rate
from rpd.demos.reader import open_demos
from rpd.evaluate import evaluate
from rpd.interrupt import Interrupt
from rpd.track import Tracker, record_settings
from rpd.trainer import FINAL_SEED, MAX_EVAL_ENVS, resolve_device
from rpd.views import shown_to
from students import flat
from students.files import write_bytes
from teachers import registry as teachers
from teachers.learner import Learner

LOG_EVERY = 20
"""Gradient steps whose mean is one entry of the record: one wait for the device."""
CHECKED, PLAYED = 1024, 256
"""Rows held out whose loss is taken at most, and on which the model answers."""
MAX_GRAD_NORM = 1.0
FINAL_RATE = 0.01
MODEL = "model"
TRAINED = "trained.safetensors"


class Cloner:
    """One run, from a configuration and a folder.

    Args:
        config: the configuration.
        run_dir: the run's folder.
        resume: checkpoint to continue from; None starts.

    Raises:
        ConfigError: anything that cannot work, before training starts.
    """

    def __init__(self, config: CloneConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None) -> None:
        self.config, self.run_dir = config, run_dir
        self.device = torch.device(resolve_device(config.device))
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        demos = open_demos(*config.data, understand=True)
        camera = camera_of(demos, config.camera)
        if config.scene_steps and not config.scene_weight:
            raise ConfigError(f"--scene-steps {config.scene_steps} has nothing to learn: give --scene-weight, e.g. 1")
        if config.scene_weight and "privileged" not in demos.keys:
            raise ConfigError("--scene-weight needs the scenes, which were not recorded: collect with --privileged True")
        self.space = action_space(demos)
        self.learner = build(config, demos, camera, self.space, self.device)
        self.demos = demos
        self.data = CloneData(demos, camera, self.learner.needs_scene, config, self.learner.horizon)
        self.data.prepare(self.learner.prepare)
        self.trainable = self.learner.trainable()
        self.optimizer = torch.optim.AdamW(
            list(self.trainable.values()), lr=0.0, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.step, self.wall = 0, 0.0
        if resume is not None:
            self._load(resume)
        self.resume_step = None if resume is None else self.step

    def run(self) -> bool:
        """Train to the end, or until interrupted; returns whether the run is complete.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
            OSError: the run's folder cannot be written; the last good checkpoint is intact.
        """
        config = self.config
        record_settings(self.run_dir, config)
        with Interrupt() as interrupt, Tracker(self.run_dir, config.total_steps, self.resume_step) as tracker:
            while self.step < config.total_steps and not interrupt.requested:
                stage_end = config.scene_steps if self.step < config.scene_steps else config.total_steps
                metrics = self.advance(min(LOG_EVERY - self.step % LOG_EVERY, stage_end - self.step))
                if self._due(config.eval_every):
                    metrics |= self.check()
                tracker.log(self.step, metrics)
                if self._due(config.checkpoint_every):
                    self._save()
            complete = self.step >= config.total_steps
            if not complete:
                self._save()
        if complete:
            self._finish()
        return complete

    def advance(self, count: int) -> dict[str, float]:
        """Take gradient steps of one stage; returns means over them."""
        config, began, rows = self.config, time.perf_counter(), []
        seeing = self.step < config.scene_steps
        start, steps = (0, config.scene_steps) if seeing else (config.scene_steps, config.steps)
        for _ in range(count):
            rate = learning_rate(config) * progress_rate(self.step - start, steps, config.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = self.data.sample(config.batch_size, self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.learner.scene_loss(batch) if seeing else self.learner.loss(batch)
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.trainable.values(), MAX_GRAD_NORM, foreach=True)
            self.optimizer.step()
            rows.append({name: value.detach() for name, value in losses.items()})
            self.step += 1
        metrics = {f"clone/{name}": torch.stack([row[name] for row in rows]).mean().item() for name in rows[0]}
        if not all(map(math.isfinite, metrics.values())):
            raise NonFiniteError("loss", ", ".join(name for name, value in metrics.items() if not math.isfinite(value)))
        seconds = time.perf_counter() - began
        self.wall += seconds
        return metrics | {"clone/lr": rate, "time/sps": count * config.batch_size / seconds, "time/wall": self.wall}

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Look at episodes that are not learnt from: the loss, and how far answers are from the labels."""
        held = self.data.held_out
        some = held[torch.linspace(0, len(held) - 1, min(CHECKED, len(held))).long()]
        with torch.random.fork_rng():  # what is drawn to look moves nothing that is learnt
            torch.manual_seed(0)
            losses = [self.learner.loss(self.data.batch(i))["action"] for i in some.split(self.config.batch_size)]
            batch = self.data.batch(some[:: max(1, len(some) // PLAYED)][:PLAYED])
            gap = self.learner.act(batch.images, batch.instructions).cpu() - batch.actions[:, 0]
        discrete = torch.tensor(self.space.discrete)
        metrics = {"check/loss": torch.stack(losses).mean().item(), "check/error": gap[:, ~discrete].abs().mean().item()}
        if discrete.any():  # the wrong side of a gripper
            metrics["check/gripper"] = (gap[:, discrete].abs() > 1).float().mean().item()
        return metrics

    def _finish(self) -> None:
        """Write the model, play the tasks with what was written, and record how it went."""
        folder = self.run_dir / MODEL
        if not folder.exists():
            self.learner.export(folder)
        config, played = self.config, []
        name = f"{config.family}:{folder}"
        for task in self.demos.tasks if config.eval_episodes else []:
            robot, count = self.demos.specs[task].embodiment.name, min(config.eval_episodes, MAX_EVAL_ENVS)
            env = envs.make(task, shown_to(EnvConfig(robot=robot, num_envs=count), name), self.device, config.num_threads)
            try:
                teacher = teachers.make(name, env.spec, self.device)
                played.append(evaluate(env, teacher, config.eval_episodes, FINAL_SEED).to_dict())
            finally:
                env.close()
        parameters = sum(p.numel() for p in self.learner.module.parameters())
        write_json(
            self.run_dir / "result.json",
            {
                "schema_version": 1, "kind": "clone", "model": MODEL, "parameters": parameters, "steps": self.step,
                "wall_s": self.wall, "episodes": len(self.demos), "rows": len(self.data.train), "played": played,
            },
        )  # fmt: skip

    def _due(self, every: int) -> bool:
        """Whether the step count is a multiple of `every` within the last entry, or the run is complete."""
        return self.step // every > (self.step - LOG_EVERY) // every or self.step >= self.config.total_steps

    def _save(self) -> None:
        optimizer, rng = checkpoint.optimizer_tensors(self.optimizer), checkpoint.rng_tensors(self.generator)
        tensors = flat.join({"optimizer": optimizer, "rng": rng})
        checkpoint.save(self.run_dir, self.step, _Trained(self.learner), tensors, {"wall": self.wall}, keep=1)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        self.step, self.wall = saved.step, saved.meta["wall"]
        stored = load_file(saved.policy_dir / TRAINED)
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in self.trainable.items()}:
            raise ConfigError(f"{saved.policy_dir}: not of this model: made with other settings, or from other demonstrations?")
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(stored[name])
        checkpoint.load_optimizer(self.optimizer, flat.part(saved.tensors, "optimizer"))
        checkpoint.load_rng(flat.part(saved.tensors, "rng"), self.generator)


class _Trained:
    """What a checkpoint holds of a model: the parameters that learn. A large model's others come from where it did."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.learner.trainable().items()}
        write_bytes(folder / TRAINED, save_tensors(tensors))


def progress_rate(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate at a step: a linear rise over `warmup` steps, and a cosine down to `FINAL_RATE`."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return rise * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * step / steps)))
