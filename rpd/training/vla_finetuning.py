"""Fine-tuning of a vision-language-action model on demonstrations, followed by an evaluation on their tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from rpd.config.vla_finetuning import CloneConfig
from rpd.core import memory
from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json
from rpd.core.joining import rank_device
from rpd.core.memory import Item
from rpd.core.seeds import FINAL_SEED
from rpd.datasets.reader import open_demos
from rpd.datasets.vla import CloneData, action_space, camera_of
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, NonFiniteError
from rpd.evaluation.environments import MAX_EVAL_ENVS
from rpd.evaluation.evaluate import evaluate
from rpd.policies.cameras import with_teacher_cameras
from rpd.policies.identity import check_same
from rpd.runs import checkpoint
from rpd.runs.progress import report_progress
from rpd.students.io import state_dict
from rpd.students.io.files import write_bytes
from rpd.teachers import registry as teachers
from rpd.teachers.vla.trainable import Minibatch, TrainableVLA
from rpd.training.loop import TrainingLoop
from rpd.training.lr_schedules import progress_rate
from rpd.training.rank_setup import batch_share, seed_rank, simulator_threads
from rpd.training.vla_models import build, check_init, init_identity, is_new, learning_rate

LOG_EVERY = 20
"""Gradient steps per log entry, which holds their means: one wait for the device."""
CHECKED, PLAYED = 1024, 256
"""Maximum numbers of held-out rows for the loss, and for the error of the model's actions."""
MAX_GRAD_NORM = 1.0
MODEL = "model"
TRAINED = "trained.safetensors"


class VLATrainer(TrainingLoop):
    """One fine-tuning run.

    Args:
        config: the configuration.
        run_dir: run folder.
        resume: checkpoint to continue from; None: start a run.
        world: ranks of the run, which share each batch.

    Raises:
        ConfigError: an invalid setting, before training starts.
    """

    config: CloneConfig

    def __init__(
        self, config: CloneConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None, world: World = SOLO
    ) -> None:
        check_init(config)
        super().__init__(config, run_dir, resume, config.save_freq, config.eval_freq, world, config.track)
        self.share = batch_share(config.batch_size, world, "batch_size")
        self.device = torch.device(rank_device(config.device))
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        demos = open_demos(*config.data, understand=True)
        camera = camera_of(demos, config.camera)
        images = 4 * self.share.count * demos.read(0, camera, [0]).nbytes  # float32
        what = f"a minibatch of {self.share.count:,} images"
        memory.check([Item("model", "pixels", images, self.device)], what, "lower batch_size")
        if config.scene_steps and not config.scene_weight:
            raise ConfigError(f"--scene-steps {config.scene_steps} needs a scene loss: set --scene-weight, e.g. 1")
        if config.scene_weight and "privileged" not in demos.keys:
            raise ConfigError("--scene-weight needs scene states, which were not recorded: collect with --privileged True")
        self.space = action_space(demos)
        self.learner = build(config, demos, camera, self.space, self.device)
        self.sources = {"init": init_identity(config)}
        if resume is not None and not is_new(config):
            check_same(str(run_dir), {"init": config.init}, resume.meta["sources"], self.sources)
        self.demos = demos
        self.data = CloneData(demos, camera, self.learner.needs_scene, config, self.learner.horizon)
        self.data.prepare(self.learner.prepare)
        self.trainable = self.learner.trainable()
        seed_rank(config.seed, world)
        world.copy_from_first(self.weights())
        self.optimizer = torch.optim.AdamW(
            list(self.trainable.values()), lr=0.0, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
        self.batch: Minibatch | None = None  # the newest batch
        if resume is not None:
            self._load(resume)

    @property
    def total_steps(self) -> int:
        """Gradient steps of both stages."""
        return self.config.total_steps

    def iterate(self) -> dict[str, float]:
        """Take gradient steps of one stage, up to the next log entry; returns mean metrics."""
        config, rows = self.config, []
        scene_stage = self.step < config.scene_steps
        stage_end = config.scene_steps if scene_stage else config.total_steps
        count = min(LOG_EVERY - self.step % LOG_EVERY, stage_end - self.step)
        start, steps = (0, config.scene_steps) if scene_stage else (config.scene_steps, config.train_steps)
        for _ in range(count):
            rate = learning_rate(config) * progress_rate(self.step - start, steps, config.warmup_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch = self.batch = self.data.sample(self.share, self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.learner.scene_loss(batch) if scene_stage else self.learner.loss(batch)
            losses = {name: self.share.fraction * value for name, value in losses.items()}  # this rank's part
            torch.stack(list(losses.values())).sum().backward()
            self.world.sum_gradients(list(self.trainable.values()))
            torch.nn.utils.clip_grad_norm_(self.trainable.values(), MAX_GRAD_NORM, foreach=True)
            self.optimizer.step()
            rows.append({name: value.detach() for name, value in losses.items()})
            self.step += 1
            report_progress("learning", len(rows), count)
        means = self.world.sum(torch.stack([torch.stack(list(row.values())) for row in rows]).mean(0)).tolist()
        metrics = {f"clone/{name}": mean for name, mean in zip(rows[0], means, strict=True)}
        if not all(map(math.isfinite, metrics.values())):
            raise NonFiniteError("loss", ", ".join(name for name, value in metrics.items() if not math.isfinite(value)))
        return metrics | {"clone/learning_rate": rate}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Compute the loss and the action error on held-out episodes; returns metrics."""
        held = self.data.held_out
        some = held[torch.linspace(0, len(held) - 1, min(CHECKED, len(held))).long()]
        with torch.random.fork_rng():  # evaluation must not change the random numbers of training
            torch.manual_seed(0)
            losses = [self.learner.loss(self.data.batch(i))["action"] for i in some.split(self.config.batch_size)]
            batch = self.data.batch(some[:: max(1, len(some) // PLAYED)][:PLAYED])
            gap = self.learner.act(batch.images, batch.instructions).cpu() - batch.actions[:, 0]
        discrete = torch.tensor(self.space.discrete)
        metrics = {"check/loss": torch.stack(losses).mean().item(), "check/error": gap[:, ~discrete].abs().mean().item()}
        if discrete.any():  # wrong gripper commands
            metrics["check/gripper"] = (gap[:, discrete].abs() > 1).float().mean().item()
        return metrics

    def finish(self) -> None:
        """Export the model, evaluate the exported model on the tasks, and write result.json."""
        folder = self.run_dir / MODEL
        with self.world.together():
            if self.world.is_first and not folder.exists():
                self.learner.export(folder)
        config, played = self.config, []
        name = f"{config.family}:{folder}"
        for task in self.demos.tasks if config.eval_episodes else []:
            robot, count = (
                self.demos.specs[task].embodiment.name,
                min(-(-config.eval_episodes // self.world.size), MAX_EVAL_ENVS),
            )
            env = envs.make(
                task,
                with_teacher_cameras(EnvConfig(robot=robot, num_envs=count), name),
                self.device,
                simulator_threads(config.num_threads),
            )
            try:
                teacher = teachers.make(name, env.spec, self.device)
                played.append(evaluate(env, teacher, config.eval_episodes, FINAL_SEED, world=self.world).to_dict())
            finally:
                env.close()
        with self.world.together():
            if self.world.is_first:
                self._write_result(played)

    def _write_result(self, played: list[dict[str, Any]]) -> None:
        parameters = sum(p.numel() for p in self.learner.module.parameters())
        write_json(
            self.run_dir / "result.json",
            {
                "schema_version": 1, "kind": "clone", "model": MODEL, "parameters": parameters, "steps": self.step,
                "wall_s": self.wall, "episodes": len(self.demos), "rows": len(self.data.train), "played": played,
            },
        )  # fmt: skip

    def evidence(self) -> dict[str, torch.Tensor]:
        """See `TrainingLoop.evidence`: the trained parameters and the newest batch."""
        batch = {} if self.batch is None else {"images": self.batch.images, "actions": self.batch.actions}
        return state_dict.join({"batch": batch, "trainable": dict(self.trainable)})

    def weights(self) -> list[torch.Tensor]:
        """See `TrainingLoop.weights`."""
        return [parameter.data for parameter in self.trainable.values()]

    def save(self) -> None:
        """See `TrainingLoop.save`."""
        tensors = checkpoint.optimizer_tensors(self.optimizer)
        own = checkpoint.RankState(checkpoint.rng_tensors(self.generator), {})
        meta = {"wall": self.wall, "sources": self.sources, "config": self.config.model_dump(mode="json")}
        checkpoint.save(self.run_dir, self.step, _Trained(self.learner), tensors, meta, own, 1, self.world)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        stored = load_file(saved.policy_dir / TRAINED)
        if {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in self.trainable.items()}:
            raise ConfigError(f"{saved.policy_dir} does not fit this model: were the settings or the demonstrations changed?")
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(stored[name])
        checkpoint.load_optimizer(self.optimizer, saved.tensors)
        if saved.own is not None:
            checkpoint.load_rng(saved.own.tensors, self.generator)
        else:
            self.generator.manual_seed(self.config.seed + self.step)


class _Trained:
    """Trained parameters of a model, the part that checkpoints store; frozen ones are reloaded from the initial checkpoint."""

    def __init__(self, learner: TrainableVLA) -> None:
        self.learner = learner

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.learner.trainable().items()}
        write_bytes(folder / TRAINED, save_tensors(tensors))
