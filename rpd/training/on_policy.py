"""On-policy training (rpd, ppo, dagger): collect and label, estimate returns, update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from rpd.algorithms import gae, ppo
from rpd.algorithms.augmentation import augmentation
from rpd.algorithms.distillation import GateContext
from rpd.algorithms.state_estimation import PerceptionLearner
from rpd.config.schema import RunConfig
from rpd.core.device import prepare_process
from rpd.core.distributed import SOLO, World
from rpd.core.files import write_json
from rpd.core.joining import rank_device
from rpd.core.seeds import CURVE_SEED, FINAL_SEED, TRAIN_SEED
from rpd.envs import registry as envs
from rpd.evaluation.environments import eval_config
from rpd.evaluation.evaluate import EvalResult, evaluate
from rpd.policies.base_action import BaseActionWrapper, evaluation_env, with_base
from rpd.policies.builtin import StudentPolicy
from rpd.policies.cameras import with_teacher_cameras
from rpd.policies.identity import begun_with
from rpd.rollout.collector import Collector
from rpd.rollout.minibatches import Minibatches
from rpd.runs import checkpoint
from rpd.runs.tracker import read_metrics
from rpd.students.actor_critic import ActorCritic
from rpd.students.io import state_dict
from rpd.students.residual import ResidualActorCritic
from rpd.teachers.base import Teacher
from rpd.teachers.refs import teacher_of
from rpd.training.builders import make_objective, make_policy, make_teacher
from rpd.training.loop import Stop, TrainingLoop, floating_tensors
from rpd.training.memory_estimate import check_rollout
from rpd.training.rank_setup import own_environments, own_generator, rank_seed, seed_rank, simulator_threads
from rpd.training.result import run_result


class OnPolicyTrainer(TrainingLoop):
    """On-policy reinforcement learning with a teacher in the loss.

    Args:
        config: the resolved configuration.
        run_dir: run folder.
        resume: checkpoint to continue from; None: start a run.
        world: ranks of the run. Each has `env.num_envs` / size environments and a teacher of its own.

    Raises:
        ConfigError: an invalid setting, before training starts.
    """

    config: RunConfig

    def __init__(
        self, config: RunConfig, run_dir: Path, resume: checkpoint.Checkpoint | None = None, world: World = SOLO
    ) -> None:
        env_config = with_teacher_cameras(config.env, config.teacher, teacher_of(config.base))
        config = config.model_copy(update={"env": env_config})
        super().__init__(config, run_dir, resume, config.save_freq, config.eval_freq, world, config.track)
        self.sources = begun_with(config, self.run_dir, None if resume is None else resume.meta["sources"])
        self.device = torch.device(rank_device(config.device))
        prepare_process(config.seed, config.num_threads)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.seed = rank_seed(config.seed, world)

        threads = simulator_threads(config.num_threads)
        self.env = envs.make(config.task, own_environments(env_config, world), self.device, threads)
        self.teacher = make_teacher(config, self.env, self.seed)
        self.objective = make_objective(config, self.teacher, self.env, world)
        if self.teacher is not None and self.objective is not None:
            self.teacher.requested_fields = self.objective.requested_fields
        if resume is None:
            self.policy = make_policy(config, self.env)
        else:
            self.policy = ActorCritic.from_pretrained(resume.policy_dir, self.device)
            self.policy.adapt_to(self.env.spec)
        self.config = self.config.model_copy(update={"student": self.policy.config})  # that of `pretrained_path`, if given
        self.env = with_base(self.env, self.policy, self.seed, teacher_of(config.base))
        self.own_generator = own_generator(self.generator, world)
        seed_rank(config.seed, world, self.own_generator)
        world.copy_from_first(self.weights())
        self.optimizer = ppo.make_optimizer(self.policy, config.ppo)
        self.state_estimator: PerceptionLearner | None = None
        if config.student.state_estimator:
            self.state_estimator = PerceptionLearner(self.policy, config.state_estimator, self.own_generator, world)
        self.augment = None if self.state_estimator is not None else augmentation(self.policy, self.own_generator)
        objective = self.objective
        self.collector = Collector(
            self.env, self.policy, self.teacher, config.ppo.num_steps, config.distill.label_fraction, self.generator,
            config.uses_reward or (objective is not None and objective.samples_actions), world,
            () if objective is None else objective.keeps,
        )  # fmt: skip
        self.minibatches = Minibatches(config.ppo.num_minibatches, self.env.num_envs, world)
        together = eval_config(config.task, env_config, config.eval_episodes, world.size)
        self.eval_env = envs.make(config.task, together, self.device, threads)
        self.success: float | None = None  # in the newest evaluation
        self.teacher_result: EvalResult | None = None
        self.teacher_success: float | None = None  # on the episodes of the learning curve, for gates
        self.base_result: EvalResult | None = None
        if resume is not None:
            self._load(resume)
        if resume is None or resume.own is None:
            first = TRAIN_SEED * (1 + config.seed) + self.step + world.rank * self.env.num_envs
            self.collector.obs = self.env.reset(first, random_start_length=True)
        if resume is None:
            self.policy.update_normalization(self.collector.obs, world.add_up, prior=True)
        check_rollout(self.config, self.env.num_envs, self.collector.obs, self.policy, self.device)

    @property
    def total_steps(self) -> int:
        """Environment steps of the run."""
        return self.config.total_timesteps

    @property
    def exact_resume(self) -> bool:
        """See `TrainingLoop.exact_resume`; depends on the simulator."""
        return self.env.exact_resume

    def begin(self, stop: Stop) -> None:
        """Evaluate the teacher and the base once, on the episodes of the final evaluation."""
        self._evaluate_teacher()
        self._evaluate_base()

    def evaluate(self) -> dict[str, float]:
        """Evaluate the student on the episodes of the learning curve."""
        metrics = self._evaluate(CURVE_SEED, self.config.eval_episodes).metrics()
        self.success = metrics["eval/success_once"]
        return metrics

    def close(self) -> None:
        """Release the environments. May be called twice."""
        self.env.close()
        self.eval_env.close()

    def iterate(self) -> dict[str, float]:
        """Collect one batch and update the student; returns metrics."""
        config = self.config
        progress = self.step / config.total_timesteps
        if config.ppo.anneal_lr:
            for group in self.optimizer.param_groups:
                group["lr"] = config.ppo.learning_rate * (1 - progress)
        objective = self.objective if self.objective is not None and self.objective.active(self.step) else None
        self.policy.set_progress(progress)
        flat = self._collect(objective is not None)
        began = self.clock()
        if objective is not None:
            context = GateContext(self.teacher_success, self.success, self.env.num_envs)
            flat["targets"] = objective.prepare(flat, self.step, context, self.generator)
        flat = flat.exclude("teacher", *self.collector.keep)
        obs = flat["obs"]
        if self.state_estimator is not None:  # the policy reads state estimates: drop the images for the epochs
            flat["obs"] = obs.exclude(*self.policy.spec.cameras)
        metrics = ppo.update(
            self.policy,
            self.optimizer,
            flat,
            config.ppo,
            self.generator,
            objective,
            config.uses_reward,
            self.augment,
            self.minibatches,
        )
        seconds = {**self.collector.times, "update": self.clock() - began}
        if self.state_estimator is not None:
            began = self.clock()
            metrics |= self.state_estimator.update(obs, progress)
            seconds["state_estimator"] = self.clock() - began
        # Normalization changes between batches only, so that stored log-probabilities stay valid within one.
        self.policy.update_normalization(flat["obs"], self.world.add_up)
        metrics |= {f"time/{name}": value for name, value in seconds.items()}
        metrics |= {f"rollout/{name}": value for name, value in self.collector.episodes.means.items()}
        queries, base_queries = self._queries()
        if self.teacher is not None:
            metrics["teacher/queries"] = float(queries)
        if isinstance(self.policy, ResidualActorCritic):
            metrics["residual/alpha"] = self.policy.residual.alpha_at(progress)
        if isinstance(self.env, BaseActionWrapper):
            metrics["base/queries"] = float(base_queries)
        self.step += config.ppo.num_steps * config.env.num_envs
        return metrics

    def _queries(self) -> tuple[int, int]:
        """Return the number of observations that the teachers of all ranks have labeled, and that of the base's actions."""
        own = [self.collector.queries, self.env.queries if isinstance(self.env, BaseActionWrapper) else 0]
        teacher, base = self.world.sum(torch.tensor(own)).tolist()
        return teacher, base

    def _collect(self, label: bool) -> TensorDict:
        """Collect one batch [M] and add its advantages and returns."""
        batch, last_value = self.collector.collect(label)
        flat = batch.flatten()
        flat["advantage"], flat["returns"] = (x.flatten() for x in gae.estimate(batch, last_value, self.config.ppo))
        return flat

    def _evaluate(self, first: int, episodes: int) -> EvalResult:
        """Evaluate the student."""
        seed = first + self.config.eval_seed_offset
        with self.world.together(), evaluation_env(self.env, self.eval_env, seed) as env:
            return evaluate(env, StudentPolicy(self.policy), episodes, seed, world=self.world)

    def _evaluate_teacher(self) -> None:
        """Evaluate the teacher once on the episodes of the final evaluation; for gates, on those of the learning curve."""
        if self.teacher is not None and self.teacher_result is None:
            self.teacher_result = self._success_of(self.teacher, self.config.final_eval_episodes, FINAL_SEED)
        needed = self.objective is not None and self.objective.gate.needs_success
        if self.teacher is not None and needed and self.teacher_success is None:
            self.teacher_success = self._success_of(self.teacher, self.config.eval_episodes, CURVE_SEED).rate

    def _success_of(self, teacher: Teacher, episodes: int, first: int) -> EvalResult:
        """Evaluate the teacher; its memory is cleared before and after."""
        seed = first + self.config.eval_seed_offset
        with self.world.together():
            teacher.seed(self.seed)
            result = evaluate(self.eval_env, teacher, episodes, seed, world=self.world)
            teacher.seed(self.seed)
            teacher.reset(torch.ones(self.env.num_envs, dtype=torch.bool, device=teacher.device))
        return result

    def _evaluate_base(self) -> None:
        """Evaluate the base once, on the episodes of the final evaluation; the new student equals the base."""
        if self.config.base is not None and self.base_result is None:
            self.base_result = self._evaluate(FINAL_SEED, self.config.final_eval_episodes)

    def finish(self) -> None:
        """Evaluate the final policy on new episodes and write result.json."""
        student = self._evaluate(FINAL_SEED, self.config.final_eval_episodes)
        result = run_result(
            self.config, self.env.spec, self.step, self.wall, read_metrics(self.run_dir), student,
            self.teacher_result, self.base_result, self._queries()[0], self.sources,
        )  # fmt: skip
        self.world.first(lambda: write_json(self.run_dir / "result.json", result))

    # Saving -------------------------------------------------------------------------------------------------------

    def weights(self) -> list[torch.Tensor]:
        """See `TrainingLoop.weights`."""
        return floating_tensors(self.policy)

    def save(self) -> None:
        """See `TrainingLoop.save`."""
        estimator = self.state_estimator
        tensors = state_dict.join({
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "state_estimator": {} if estimator is None else estimator.state_dict(),
        })  # fmt: skip
        own = state_dict.join({
            "rng": checkpoint.rng_tensors(self.generator, self.own_generator),
            "env": self.env.state_dict(),
            "teacher": {} if self.teacher is None else self.teacher.state_dict(),
            "replay": {} if estimator is None else estimator.own_state_dict(),
        })  # fmt: skip
        meta = {
            "wall": self.wall,
            "sources": self.sources,
            "config": self.config.model_dump(mode="json"),
            "success": self.success,
            "queries": self._queries(),
            "episodes": self.collector.episodes.means,
            "objective": None if self.objective is None else self.objective.state_dict(),
            "teacher_success": self.teacher_success,
            "teacher_result": None if self.teacher_result is None else self.teacher_result.to_full_dict(),
            "base_result": None if self.base_result is None else self.base_result.to_full_dict(),
        }
        mine = checkpoint.RankState(own, self.collector.state())
        checkpoint.save(self.run_dir, self.step, self.policy, tensors, meta, mine, self.config.max_checkpoints, self.world)

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.load_optimizer(self.optimizer, state_dict.part(saved.tensors, "optimizer"))
        if self.state_estimator is not None:
            self.state_estimator.load_state_dict(state_dict.part(saved.tensors, "state_estimator"))
        meta = saved.meta
        self.success, self.collector.episodes.means = meta["success"], meta["episodes"]
        if self.objective is not None:
            self.objective.load_state_dict(meta["objective"])
        self.teacher_result = self._measured(meta["teacher_result"])
        self.teacher_success = meta["teacher_success"]
        self.base_result = self._measured(meta["base_result"])
        if saved.own is not None:
            self._load_own(saved.own)
        else:
            self._begin_anew(*meta["queries"])

    def _begin_anew(self, queries: int, base_queries: int) -> None:
        """Continue a run of another number of ranks: new random numbers; rank 0 takes over the counters."""
        self.generator.manual_seed(self.config.seed + self.step)
        if self.world.is_first and self.collector.teacher_queue is not None:
            self.collector.teacher_queue.queries = queries
        if self.world.is_first and isinstance(self.env, BaseActionWrapper):
            self.env.queries = base_queries

    def _load_own(self, own: checkpoint.RankState) -> None:
        self.collector.obs = self.env.load_state_dict(state_dict.part(own.tensors, "env"))
        if self.teacher is not None:
            self.teacher.load_state_dict(state_dict.part(own.tensors, "teacher"))
        if self.state_estimator is not None:
            self.state_estimator.load_own_state_dict(state_dict.part(own.tensors, "replay"))
        self.collector.load_state(own.meta)
        checkpoint.load_rng(state_dict.part(own.tensors, "rng"), self.generator, self.own_generator)
        self.world.copy_generator_from_first(self.generator)  # after a lost server, ranks were at different steps of a batch

    def _measured(self, saved: dict[str, Any] | None) -> EvalResult | None:
        """Return a saved evaluation; None if `final_eval_episodes` has changed since."""
        result = None if saved is None else EvalResult.from_full_dict(saved)
        return None if result is None or result.n != self.config.final_eval_episodes else result

    def evidence(self) -> dict[str, torch.Tensor]:
        """See `TrainingLoop.evidence`: the filled steps of the batch, and the policy."""
        return state_dict.join({"batch": self.collector.filled_steps(), "policy": self.policy.state_dict()})
