"""Behavior cloning of all student types: draw demonstrations, take gradient steps, average the weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tensordict import TensorDict

from rpd.config.schema import RunConfig
from rpd.core.device import prepare_process
from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json
from rpd.core.joining import rank_device
from rpd.core.seeds import CURVE_SEED, FINAL_SEED
from rpd.envs import registry as envs
from rpd.envs.errors import NonFiniteError
from rpd.evaluation.environments import eval_config
from rpd.evaluation.evaluate import EvalResult, evaluate
from rpd.policies.identity import begun_with
from rpd.runs import checkpoint
from rpd.runs.progress import report_progress
from rpd.runs.tracker import read_metrics
from rpd.students.diffusion.ema import EMA
from rpd.students.io import pretrained, state_dict
from rpd.training.bc_students import BATCHES_PER_ITERATION, STUDENTS, Generators
from rpd.training.builders import make_teacher
from rpd.training.loop import TrainingLoop, floating_tensors
from rpd.training.lr_schedules import progress_rate
from rpd.training.rank_setup import batch_share, own_generator, seed_rank, simulator_threads
from rpd.training.result import run_result

MAX_GRAD_NORM = 1.0


class BehaviorCloningTrainer(TrainingLoop):
    """One behavior cloning run. A step is one drawn row or chunk of demonstrations.

    Args:
        config: the resolved configuration, with ``algorithm: bc``.
        run_dir: run folder.
        resume: checkpoint to continue from; None: start a run.
        world: ranks of the run, which share each batch.

    Raises:
        ConfigError: an invalid setting, before training starts.
    """

    config: RunConfig

    def __init__(
        self, config: RunConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None, world: World = SOLO
    ) -> None:
        super().__init__(config, run_dir, resume, config.save_freq, config.eval_freq, world, config.track)
        self.share = batch_share(config.bc.batch_size, world, "bc.batch_size")
        self.sources = begun_with(config, self.run_dir, None if resume is None else resume.meta["sources"])
        self.device = torch.device(rank_device(config.device))
        prepare_process(config.seed, config.num_threads)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        together = eval_config(config.task, config.env, config.eval_episodes, world.size)
        self.env = envs.make(config.task, together, self.device, simulator_threads(config.num_threads))
        make_teacher(config, self.env)  # raises an error if a teacher is set
        saved = None if resume is None else pretrained.load(resume.policy_dir, self.device)
        self.own_generator = own_generator(self.generator, world)
        generators = Generators(self.generator, self.own_generator)
        self.student = STUDENTS[config.student.type](config, self.env, generators, saved, world)
        self.policy = self.student.policy
        seed_rank(config.seed, world, self.own_generator)
        world.copy_from_first(self.weights())
        self.config = config.model_copy(
            update={"student": self.policy.describe().student}
        )  # that of `pretrained_path`, if given
        self.average = EMA(self.policy, config.bc.ema_decay, self.student.shared)
        self.parameters = self.student.parameters()
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=config.bc.weight_decay, fused=True
        )
        self.updates = 0
        self.batch: TensorDict | None = None  # the newest batch
        if resume is not None:
            self._load(resume)

    @property
    def total_steps(self) -> int:
        """Length of the run in rows; the last batch may exceed it."""
        return self.config.total_timesteps

    def evaluate(self) -> dict[str, float]:
        """Evaluate the averaged weights on the episodes of the learning curve."""
        return self._evaluate(CURVE_SEED, self.config.eval_episodes).metrics()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def iterate(self) -> dict[str, float]:
        """Take up to `BATCHES_PER_ITERATION` gradient steps; returns mean metrics."""
        config, began = self.config.bc, self.clock()
        whole = math.ceil(self.total_steps / config.batch_size)
        count = min(BATCHES_PER_ITERATION, whole - self.updates)
        losses: list[torch.Tensor] = []
        for _ in range(count):
            rate = config.learning_rate * progress_rate(self.updates, whole, config.warmup_steps, config.anneal_lr)
            losses.append(self._update(rate))
            report_progress("learning", len(losses), count)
        mean = self.world.sum(torch.stack(losses).mean()).item()
        if not math.isfinite(mean):
            raise NonFiniteError(
                "loss", f"{mean} at {self.step:,} steps: lower --bc.learning-rate; the last checkpoint is valid"
            )
        metrics = {"bc/loss": mean, "bc/learning_rate": rate, "time/update": self.clock() - began}
        return metrics | self.student.end_iteration(self.step / self.total_steps)

    def _update(self, rate: float) -> torch.Tensor:
        """Take one gradient step at learning rate `rate`; returns this rank's part of the loss before the step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.batch = self.student.draw(self.share)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.share.fraction * self.student.loss(self.batch, self.share)
        loss.backward()
        self.world.sum_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
        self.optimizer.step()
        self.average.update(self.policy, self.updates)
        self.updates += 1
        self.step += self.config.bc.batch_size
        return loss.detach()

    def evidence(self) -> dict[str, torch.Tensor]:
        """See `TrainingLoop.evidence`: the network and the newest batch."""
        batch = {} if self.batch is None else dict(self.batch.flatten_keys(".").items())
        return state_dict.join({"batch": batch, "policy": self.policy.state_dict()})

    def _evaluate(self, first: int, episodes: int) -> EvalResult:
        seed = first + self.config.eval_seed_offset
        with torch.random.fork_rng():
            return evaluate(self.env, self.student.actor(self.average.network), episodes, seed, world=self.world)

    def finish(self) -> None:
        """Evaluate the final policy on new episodes and write result.json."""
        student = self._evaluate(FINAL_SEED, self.config.final_eval_episodes)
        result = run_result(
            self.config, self.env.spec, self.step, self.wall, read_metrics(self.run_dir), student, sources=self.sources
        )
        self.world.first(lambda: write_json(self.run_dir / "result.json", result))

    def weights(self) -> list[torch.Tensor]:
        """See `TrainingLoop.weights`."""
        return floating_tensors(self.policy)

    def save(self) -> None:
        """See `TrainingLoop.save`."""
        tensors = state_dict.join({
            "network": self.policy.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "student": self.student.state_dict(),
        })  # fmt: skip
        own = {"student": self.student.own_state_dict(), "rng": checkpoint.rng_tensors(self.generator, self.own_generator)}
        meta = {
            "updates": self.updates,
            "wall": self.wall,
            "sources": self.sources,
            "config": self.config.model_dump(mode="json"),
        }
        mine = checkpoint.RankState(state_dict.join(own), {})
        keep = self.config.max_checkpoints
        checkpoint.save(self.run_dir, self.step, self.average.network, tensors, meta, mine, keep, self.world)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the training state. The averaged weights are the checkpoint's policy, loaded with the student."""
        self.updates = saved.meta["updates"]
        self.policy.load_state_dict(state_dict.part(saved.tensors, "network"))
        checkpoint.load_optimizer(self.optimizer, state_dict.part(saved.tensors, "optimizer"))
        self.student.load_state_dict(state_dict.part(saved.tensors, "student"))
        if saved.own is None:
            self.generator.manual_seed(self.config.seed + self.step)
            return
        self.student.load_own_state_dict(state_dict.part(saved.own.tensors, "student"))
        checkpoint.load_rng(state_dict.part(saved.own.tensors, "rng"), self.generator, self.own_generator)
