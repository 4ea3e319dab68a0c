"""The training loop: collect and label, returns, update, log, evaluate, save."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from tensordict import TensorDict

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError, NonFiniteError, ServerLost
from rpd import checkpoint, memory, ppo
from rpd.atomic import write_json
from rpd.augment import augmentation
from rpd.config import RunConfig
from rpd.distill import DistillObjective, GateContext
from rpd.evaluate import EvalResult, evaluate
from rpd.imitation import DemoSource
from rpd.interrupt import Interrupt
from rpd.perception import PerceptionLearner, kept
from rpd.policies import Policy, StudentPolicy, teacher_of
from rpd.residual import make_policy
from rpd.results import run_result
from rpd.rollout import Collector
from rpd.track import Tracker, read_metrics, record_settings
from rpd.views import shown_to
from students import flat
from students.actor_critic import ActorCritic
from students.files import write_bytes
from students.residual import ResidualActorCritic
from teachers import registry as teachers
from teachers.base import Teacher
from teachers.policy import outside_base

# Seeds of episodes, far apart: training never sees an episode that the policy is judged on.
CURVE_SEED, FINAL_SEED, TRAIN_SEED = 1_000_000, 2_000_000, 10_000_000
MAX_EVAL_ENVS = 128
EVIDENCE = "evidence"


class Trainer:
    """One run, from a configuration and a folder; `run` may be called on a new folder or on an interrupted one.

    Args:
        config: the resolved configuration.
        run_dir: the run's folder.
        resume: checkpoint to continue from; None starts.

    Raises:
        ConfigError: anything that cannot work, before training starts.
    """

    def __init__(self, config: RunConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None) -> None:
        env_config = shown_to(config.env, config.teacher, teacher_of(config.base))
        self.config, self.run_dir = config.model_copy(update={"env": env_config}), Path(run_dir)
        self.device = torch.device(resolve_device(config.device))
        torch.set_num_threads(config.num_threads or 1)
        torch.manual_seed(config.seed)
        np.random.seed(config.seed % 2**32)  # nothing here draws from it, but a simulator may
        self.generator = torch.Generator(self.device).manual_seed(config.seed)

        self.env = envs.make(config.task, env_config, self.device, config.num_threads)
        self.teacher = make_teacher(config, self.env)
        self.objective = make_objective(config, self.teacher, self.env)
        if self.teacher is not None and self.objective is not None:
            self.teacher.wanted = self.objective.wanted
        if resume is None:
            self.policy = make_policy(config, self.env)
        else:  # with its base, wherever that may be now
            self.policy = ActorCritic.from_pretrained(resume.policy_dir, self.device)
            self.policy.fit(self.env.spec)
        self.config = self.config.model_copy(update={"student": self.policy.config})  # where it started from another
        self.base = outside_base(self.policy, self.env.spec, self.env.device)
        if self.base is not None:
            self.base.seed(config.seed)
        self.demos = DemoSource(config.demos, self.env.spec, config.student, self.generator) if config.mode == "bc" else None
        self.optimizer = ppo.make_optimizer(self.policy, config.ppo)
        self.sight = PerceptionLearner(self.policy, config.perception, self.generator) if config.student.perceive else None
        self.augment = None if self.sight is not None else augmentation(self.policy, self.generator)
        self.collector = Collector(
            self.env, self.policy, self.teacher, config.ppo.num_steps, config.distill.label_fraction, self.generator,
            explore=config.uses_reward or (self.objective is not None and self.objective.scores), base=self.base,
        )  # fmt: skip
        together = eval_config(config.task, env_config, config.eval_episodes)
        self.eval_env = envs.make(config.task, together, self.device, config.num_threads)
        self.clock = time.perf_counter
        self.step, self.wall = 0, 0.0
        self.success: float | None = None  # of the newest evaluation
        self.teacher_result: EvalResult | None = None
        self.base_result: EvalResult | None = None
        if resume is None:
            self.collector.obs = self.env.reset(TRAIN_SEED * (1 + config.seed), stagger=True)
            self.policy.observe(self.collector.obs)
        else:
            self._load(resume)
        self._check_memory()
        self.resume_step = self.saved_step = None if resume is None else self.step

    @property
    def exact_resume(self) -> bool:
        """Whether a resumed run has the numbers of one that was never stopped."""
        return self.env.exact_resume

    def _check_memory(self) -> None:
        """Refuse batches that cannot fit; what else a run takes, `rpd.plan` estimates."""
        steps, count, obs = self.config.ppo.num_steps, self.config.env.num_envs, self.collector.obs
        items = memory.rollout(memory.row_bytes(obs), steps, count, self.device)
        if self.sight is not None:
            items.append(kept(obs, self.policy.spec.cameras, self.config.perception, self.device))
        remedy = "lower ppo.num_steps, env.num_envs, env.image_size or perception.keep; `rpd doctor --plan` lists everything"
        memory.check(items, f"a batch of {steps} steps from {count} environments", remedy)

    def run(self) -> bool:
        """Train to the end, or until interrupted. Closes the environments.

        Returns:
            Whether the run is complete; if not, a checkpoint holds all that `resume` needs.

        Raises:
            RunFault: the run cannot go on. Where it saw NaN or Inf, the last batch lies in the folder ``evidence``; where a
                teacher's server was lost, a checkpoint holds every finished iteration.
            OSError: the run's folder cannot be written; the last good checkpoint is intact.
        """
        config, per_iteration = self.config, self.config.ppo.num_steps * self.config.env.num_envs
        record_settings(self.run_dir, config)
        try:
            with Interrupt() as interrupt:
                self._evaluate_teacher()
                self._evaluate_base()
                with Tracker(self.run_dir, config.total_steps, self.resume_step) as tracker:
                    while self.step < config.total_steps and not interrupt.requested:
                        began = self.clock()
                        metrics = self.iterate()
                        self.step += per_iteration
                        seconds = self.clock() - began
                        self.wall += seconds
                        metrics |= {"time/sps": per_iteration / seconds, "time/wall": self.wall}
                        if self._due(config.eval_every, per_iteration):
                            metrics |= self._evaluate(self.eval_env, CURVE_SEED, config.eval_episodes).metrics()
                            self.success = metrics["eval/success"]
                        tracker.log(self.step, metrics)
                        if self._due(config.checkpoint_every, per_iteration):
                            self._save()
                complete = self.step >= config.total_steps
                if complete:
                    self._finish()
                else:
                    self._save()
                return complete
        except NonFiniteError as fault:
            self._dump_evidence(fault)
            raise
        except ServerLost:
            if self.saved_step != self.step:  # where nothing is wrong here, no finished iteration need be lost
                self._save()
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Release the environments. May be called twice."""
        self.env.close()
        self.eval_env.close()

    def iterate(self) -> dict[str, float]:
        """Collect one batch, learn from it, and say how it went."""
        config = self.config
        progress = self.step / config.total_steps
        if config.ppo.anneal_lr:
            for group in self.optimizer.param_groups:
                group["lr"] = config.ppo.lr * (1 - progress)
        objective = self.objective if self.objective is not None and self.objective.active(progress) else None
        self.policy.set_progress(progress)
        flat = self._collect(objective is not None) if self.demos is None else self._draw(self.demos)
        began = self.clock()
        if objective is not None:
            teacher = None if self.teacher_result is None else self.teacher_result.rate
            context = GateContext(teacher, self.success)
            objective.prepare(flat, progress, context)
        obs = flat["obs"]
        if self.sight is not None:  # the policy reads beliefs, and the epochs need not carry the images
            flat["obs"] = obs.exclude(*self.policy.spec.cameras)
        metrics = ppo.update(
            self.policy, self.optimizer, flat, config.ppo, self.generator, objective, config.uses_reward, self.augment
        )
        seconds = {**self.collector.times, "update": self.clock() - began}
        if self.sight is not None:
            began = self.clock()
            metrics |= self.sight.update(obs, progress)
            seconds["perception"] = self.clock() - began
        # The normaliser moves between batches, never within one: stored log-probabilities stay those of the policy.
        self.policy.observe(flat["obs"])
        metrics |= {f"time/{name}": value for name, value in seconds.items()}
        metrics |= {f"rollout/{name}": value for name, value in self.collector.episodes.means.items()}
        if self.teacher is not None:
            metrics["teacher/queries"] = float(self.collector.queries)
        if isinstance(self.policy, ResidualActorCritic):
            metrics["residual/alpha"] = self.policy.residual.alpha_at(progress)
        if self.base is not None:
            metrics["base/queries"] = float(self.collector.base_queries)
        return metrics

    def _collect(self, label: bool) -> TensorDict:
        """One batch [M] from the environments, with its advantages and returns."""
        batch, last_value = self.collector.collect(label)
        flat = batch.flatten()
        flat["advantage"], flat["returns"] = (x.flatten() for x in self._returns(batch, last_value))
        return flat

    def _draw(self, demos: DemoSource) -> TensorDict:
        """As many rows of demonstrations [M]."""
        began = self.clock()
        flat = demos.draw(self.config.ppo.num_steps * self.config.env.num_envs)
        with torch.no_grad():
            flat["obs"] = self.policy.perceive(flat["obs"])
        self.collector.times = {"demos": self.clock() - began}
        return flat

    def _returns(self, batch: TensorDict, last_value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and returns, both [T, N]."""
        estimate = ppo.gae_finite_horizon if self.config.ppo.finite_horizon_gae else ppo.gae
        return estimate(
            batch["reward"], batch["value"], batch["terminated"], batch["truncated"], batch["final_value"], last_value,
            self.config.ppo.gamma, self.config.ppo.gae_lambda,
        )  # fmt: skip

    def _due(self, every: int, per_iteration: int) -> bool:
        """Whether a multiple of `every` was passed in this iteration, or the run is complete."""
        return self.step // every > (self.step - per_iteration) // every or self.step >= self.config.total_steps

    def _evaluate(self, env: VectorEnv, seed: int, episodes: int, policy: Policy | None = None) -> EvalResult:
        if policy is not None or self.base is None:
            return evaluate(env, policy or StudentPolicy(self.policy), episodes, seed)
        memory = {name: tensor.clone() for name, tensor in self.base.state_dict().items()}  # of the episodes in training
        try:
            return evaluate(env, StudentPolicy(self.policy, base=self.base), episodes, seed)
        finally:
            self.base.load_state_dict(memory)

    def _evaluate_teacher(self) -> None:
        """Measure the teacher once, on the episodes that the student will be judged on."""
        if self.teacher is None or self.teacher_result is not None:
            return
        self.teacher.seed(self.config.seed)
        self.teacher_result = self._evaluate(self.eval_env, FINAL_SEED, self.config.final_episodes, self.teacher)
        self.teacher.seed(self.config.seed)
        self.teacher.reset(torch.ones(self.env.num_envs, dtype=torch.bool, device=self.teacher.device))

    def _evaluate_base(self) -> None:
        """Measure the base once, on the episodes that the student will be judged on: it is what the student starts as."""
        if self.config.base is not None and self.base_result is None:
            self.base_result = self._evaluate(self.eval_env, FINAL_SEED, self.config.final_episodes)

    def _finish(self) -> None:
        """Judge the final policy on fresh episodes and write result.json."""
        student = self._evaluate(self.eval_env, FINAL_SEED, self.config.final_episodes)
        result = run_result(
            self.config, self.env.spec, self.step, self.wall, read_metrics(self.run_dir), student,
            self.teacher_result, self.base_result, self.collector.queries,
        )  # fmt: skip
        write_json(self.run_dir / "result.json", result)

    # Saving -------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = flat.join({
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "rng": checkpoint.rng_tensors(self.generator),
            "env": self.env.state_dict(),
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "base": {} if self.base is None else self.base.state_dict(),
            "sight": {} if self.sight is None else self.sight.state_dict(),
        })  # fmt: skip
        meta = {
            "wall": self.wall,
            "success": self.success,
            "queries": self.collector.queries,
            "base_queries": self.collector.base_queries,
            "owed": 0.0 if self.collector.labeller is None else self.collector.labeller.owed,
            "episodes": self.collector.episodes.means,
            "objective": None if self.objective is None else self.objective.state_dict(),
            "teacher_result": None if self.teacher_result is None else self.teacher_result.to_full_dict(),
            "base_result": None if self.base_result is None else self.base_result.to_full_dict(),
        }
        checkpoint.save(self.run_dir, self.step, self.policy, tensors, meta, keep=self.config.keep_checkpoints)
        self.saved_step = self.step

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        self.step = saved.step
        checkpoint.load_optimizer(self.optimizer, flat.part(saved.tensors, "optimizer"))
        self.collector.obs = self.env.load_state_dict(flat.part(saved.tensors, "env"))
        if self.teacher is not None:
            self.teacher.load_state_dict(flat.part(saved.tensors, "teacher"))
        if self.base is not None:
            self.base.load_state_dict(flat.part(saved.tensors, "base"))
        if self.sight is not None:
            self.sight.load_state_dict(flat.part(saved.tensors, "sight"))
        meta = saved.meta
        self.wall, self.success = meta["wall"], meta["success"]
        if self.collector.labeller is not None:
            self.collector.labeller.queries, self.collector.labeller.owed = meta["queries"], meta["owed"]
        self.collector.episodes.means = meta["episodes"]
        if self.objective is not None:
            self.objective.load_state_dict(meta["objective"])
        if meta["teacher_result"] is not None:
            self.teacher_result = EvalResult.from_full_dict(meta["teacher_result"])
        self.collector.base_queries = meta.get("base_queries", 0)
        if meta.get("base_result") is not None:
            self.base_result = EvalResult.from_full_dict(meta["base_result"])
        checkpoint.load_rng(flat.part(saved.tensors, "rng"), self.generator)

    def _dump_evidence(self, fault: NonFiniteError) -> None:
        """Leave the last batch, the policy and the message in the run folder."""
        batch = self.collector.batch[: self.collector.filled].flatten_keys(".")
        tensors = flat.join({"batch": dict(batch.items()), "policy": self.policy.state_dict()})
        with contextlib.suppress(OSError):  # a full disk must not hide the fault
            folder = self.run_dir / EVIDENCE
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / "tensors.safetensors", save_tensors({k: t.contiguous().cpu() for k, t in tensors.items()}))
            write_json(folder / "fault.json", {"step": self.step, "source": fault.source, "fault": str(fault)})


def make_teacher(config: RunConfig, env: VectorEnv) -> Teacher | None:
    """Build the run's teacher, or none in modes ppo and bc.

    Raises:
        ConfigError: mode and teacher do not go together, or see `teachers.registry.make`.
    """
    if config.mode in ("ppo", "bc"):
        if config.teacher is not None:
            raise ConfigError(
                f"mode {config.mode} uses no teacher, but teacher is '{config.teacher}': leave it out, or use mode rpd"
            )
        return None
    if config.teacher is None:
        raise ConfigError(f"mode {config.mode} needs a teacher: add --teacher, e.g. --teacher scripted:noisy; see `rpd list`")
    teacher = teachers.make(config.teacher, env.spec, env.device)
    teacher.seed(config.seed)
    return teacher


def make_objective(config: RunConfig, teacher: Teacher | None, env: VectorEnv) -> DistillObjective | None:
    """Build the distillation term, checked against what the teacher provides; None without a teacher or demonstrations."""
    if config.mode == "bc":
        return DistillObjective(config.distill, "demonstrations", {"mean"}, env.spec.action.discrete, use_reward=False)
    if teacher is None:
        return None
    return DistillObjective(
        config.distill, teacher.name, teacher.provides, env.spec.action.discrete,
        use_reward=config.uses_reward, bin_edges=teacher.bin_edges,
    )  # fmt: skip


def resolve_device(name: str) -> str:
    """Turn ``auto`` into cuda where there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}': use auto, cpu, cuda or cuda:<index>") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}' does not exist: torch sees {torch.cuda.device_count()} cuda devices; use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: use auto, cpu, cuda or cuda:<index>")
    return name


def eval_config(task: str, env: EnvConfig, episodes: int) -> EnvConfig:
    """The environment of evaluations: whole episodes, as many at a time as is quick."""
    return env.model_copy(update={"num_envs": min(episodes, envs.task_info(task).together or MAX_EVAL_ENVS)})
