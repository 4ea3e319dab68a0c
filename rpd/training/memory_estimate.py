"""Memory estimate of a run before it starts (`rpd doctor --plan`).

One environment is built for the shapes: batch sizes follow from its observations and the student's outputs, activations from
the tensors that autograd saves for a few rows. A large teacher is not loaded: its family provides the estimate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.algorithms.distillation import binned, choose
from rpd.algorithms.distillation.gates import BEHAVIOR, EPISODES
from rpd.algorithms.distillation.objective import kept_fields
from rpd.algorithms.state_estimation import replay_memory
from rpd.config.schema import RunConfig
from rpd.core import memory
from rpd.core.device import resolve_device
from rpd.core.memory import Item
from rpd.datasets.behavior_cloning import demonstrations
from rpd.datasets.steps import MAX_BYTES
from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.vector_env import VectorEnv
from rpd.evaluation.environments import MAX_EVAL_ENVS, eval_config
from rpd.policies.cameras import with_teacher_cameras
from rpd.students.actor_critic import ActorCritic
from rpd.students.residual import BASE_ACTION
from rpd.teachers import registry as teachers
from rpd.teachers.observation import teacher_observation
from rpd.teachers.refs import teacher_of
from rpd.training.bc_students import BATCHES_PER_ITERATION
from rpd.training.builders import make_policy, make_teacher

CPU = torch.device("cpu")
CUDA_CONTEXT = 500_000_000
"""Approximate GPU memory of CUDA and its libraries, in bytes."""
BACKWARD = 1.5
"""Factor of the activations' memory during the backward pass, which adds temporary gradients."""


def check_rollout(config: RunConfig, num_envs: int, obs: TensorDict, policy: ActorCritic, device: torch.device) -> None:
    """Check that one on-policy batch fits into memory. `make` estimates the whole run.

    Args:
        config: configuration of the run.
        num_envs: environments N of this rank.
        obs: observations [N] of the environments.
        policy: the student.
        device: device of the batch.

    Raises:
        ConfigError: it does not fit; names the largest item and the options that reduce it.
    """
    items = memory.rollout(memory.row_bytes(obs), config.ppo.num_steps, num_envs, device)
    if config.student.state_estimator:
        items.append(replay_memory(obs, policy.spec.cameras, config.state_estimator, device))
    remedy = (
        "lower ppo.num_steps, env.num_envs, env.image_size or state_estimator.replay_capacity; "
        "`rpd doctor --plan` lists everything"
    )
    memory.check(items, f"a batch of {config.ppo.num_steps} steps from {num_envs} environments", remedy)


@dataclass(frozen=True)
class Plan:
    """Memory estimate of a run."""

    title: str
    remedy: str
    """Options that reduce the memory."""
    items: list[Item]
    held: int
    """Bytes of main memory that this process already uses; included in the items."""


def make(config: RunConfig) -> Plan:
    """Estimate the memory of a run.

    Raises:
        ConfigError: an invalid configuration (as in `rpd train`), or a diffusion policy, for which there is no estimate.
    """
    if config.student.type == "diffusion":
        raise ConfigError("student.type diffusion: its memory is not estimated; it grows with bc.batch_size and the image size")
    torch.manual_seed(config.seed)
    device = torch.device(resolve_device(config.device))
    seen = with_teacher_cameras(config.env, config.teacher, teacher_of(config.base))
    with contextlib.closing(envs.make(config.task, seen.model_copy(update={"num_envs": 1}), CPU, 1)) as env:
        obs, policy = env.reset(0), make_policy(config, env)
        labeling, labels = _teacher(config, env, obs, device)
        row = _row(policy, obs, labels)
        items = [*_simulator(config, seen, env, device), *_student(config, policy, row, device), *labeling]
        sizes = memory.row_bytes(row)
        if config.algorithm == "bc":
            items.append(_demonstrations(config, sizes, policy.spec.frames))
        else:
            items += memory.rollout(sizes, config.ppo.num_steps, config.env.num_envs, device)
    held = memory.resident()
    items.append(Item("process", "Python, torch and libraries", held, CPU, certain=False))
    if device.type == "cuda":
        items.append(Item("process", "CUDA", CUDA_CONTEXT, device, certain=False))
    return Plan(title(config), remedy(config), items, held)


def title(config: RunConfig) -> str:
    """Describe a run by the settings that determine its memory."""
    if config.algorithm == "bc":
        return f"{config.task}, batches of {config.bc.batch_size:,}"
    return f"{config.task}, {config.env.num_envs:,} environments, {config.ppo.num_steps:,} steps"


def remedy(config: RunConfig) -> str:
    """Return the options that reduce the memory of a run."""
    own = "bc.batch_size, eval_episodes" if config.algorithm == "bc" else "env.num_envs, ppo.num_steps"
    return f"lower {own}, env.image_size, env.frame_stack or state_estimator.replay_capacity"


def activations(forward: Callable[[TensorDict], Tensor], row: TensorDict) -> int:
    """Return the bytes per row that autograd saves for the backward pass of `forward`; `row` [1] is an example row."""

    def alive(rows: int) -> int:
        tensors: dict[int, Tensor] = {}  # by address: tensors saved twice count once

        def pack(tensor: Tensor) -> Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward(cast("TensorDict", torch.cat([row] * rows)))
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

    return (alive(4) - alive(2)) // 2  # cancels the parameters, whose size does not depend on the rows


def _simulator(config: RunConfig, seen: EnvConfig, env: VectorEnv, device: torch.device) -> list[Item]:
    """Return the memory of the training and evaluation environments, and of their newest teacher-only images."""
    judged = eval_config(config.task, seen, config.eval_episodes)
    items = []
    training = [] if config.algorithm == "bc" else [("training", seen)]
    for name, one in (*training, ("evaluation", judged)):
        for what, size in envs.memory(config.task, one, device, config.num_threads).items():
            items.append(Item("simulator", f"{name}: {what}", size, CPU, certain=False))
    images = sum(view.nbytes for view in env.teacher_images().values())
    if images:
        items.append(Item("teacher", "teacher-only images", max(seen.num_envs, judged.num_envs) * images, device))
    return items


def _teacher(config: RunConfig, env: VectorEnv, obs: TensorDict, device: torch.device) -> tuple[list[Item], dict[str, Any]]:
    """Return the memory of the teacher, and the fields [1, ...] that a batch stores for it, nested."""
    valid, dims = torch.ones(1, dtype=torch.bool), env.spec.action.dim
    if config.algorithm in ("ppo", "bc") or config.teacher is None:
        make_teacher(config, env)  # raises an error if algorithm and teacher do not fit
        return [], {}
    # The teacher labels the training environments, and acts in all evaluation environments.
    rows = max(config.env.num_envs, min(config.final_eval_episodes, MAX_EVAL_ENVS))
    large = teachers.footprint(config.teacher, env.spec, device, rows)
    if large is not None:
        label = {name: torch.zeros(1, *shape) for name, shape in large.label.items()}
        items = [
            Item("teacher", "weights", large.weights, device),
            Item("teacher", "forward pass, keys and values", large.working, device, certain=False),
        ]
    else:
        teacher = make_teacher(config, env)
        assert teacher is not None
        label = teacher.label(teacher_observation(env, obs, teacher), env.instructions, torch.zeros(1, dims)).tensors()
        weights = sum(tensor.nbytes for tensor in teacher.weights().values())
        items = [Item("teacher", "weights", weights, teacher.device)] if weights else []
    variant, gate = choose(config.distill, config.teacher, frozenset(label) - {"valid"}, config.uses_reward)
    if variant.precompute is not None:
        grid = torch.zeros(1, dims, binned.CELLS)
        size = grid.nbytes + sum(part.nbytes for part in variant.precompute(grid).values())
        items.append(Item("teacher", "action bins on a grid", size * _batch(config), device, certain=False))
    wanted = variant.needs | gate.needs
    fields: dict[str, Any] = {"teacher": {"valid": valid, **{name: x for name, x in label.items() if name in wanted}}}
    if variant.score is not None:
        actions = torch.zeros(config.distill.opd_samples, dims)
        items.append(Item("teacher", "scored actions", 3 * actions.nbytes * _batch(config), device, certain=False))
    kept = kept_fields(config.distill, variant, gate)
    if BEHAVIOR in kept:
        fields[BEHAVIOR] = {"raw": torch.zeros(1, dims), "log_std": torch.zeros(1, dims)}
    if EPISODES in kept:
        fields[EPISODES] = torch.zeros(1)
    return items, fields


def _row(policy: ActorCritic, obs: TensorDict, labels: dict[str, Any]) -> TensorDict:
    """Return one row [1] of the batch of `rpd.rollout.collector.Collector`."""
    seen = obs.copy()
    if policy.outside is not None:
        seen[BASE_ACTION] = torch.zeros(1, policy.spec.action.dim)
    with torch.no_grad():
        seen = policy.augment_obs(seen)
        distribution, value = policy(seen)
    number, truth = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    fields = {
        "obs": seen, "action": distribution.mode(), "log_prob": number, "value": value,
        "reward": number, "terminated": truth, "truncated": truth, "final_value": number,
    }  # fmt: skip
    return TensorDict(fields | labels, [1])


def _student(config: RunConfig, policy: ActorCritic, row: TensorDict, device: torch.device) -> list[Item]:
    trained = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    everything = sum(tensor.nbytes for tensor in policy.state_dict().values())
    cloned = config.algorithm == "bc"
    minibatch = config.bc.batch_size if cloned else math.ceil(_batch(config) / config.ppo.num_minibatches)
    sizes, estimated = memory.row_bytes(row), config.student.state_estimator
    images = sum(size for key, size in sizes.items() if key.startswith("obs.image."))
    carried = 0 if estimated else images  # with state estimates, the policy's minibatches have no images
    passes = 2 if policy.config.augment and not estimated and config.uses_reward else 1

    def act(rows: TensorDict) -> Tensor:
        distribution, value = policy(rows["obs"])
        return distribution.log_prob(rows["action"]).sum() + distribution.entropy().sum() + value.sum()

    per_row = int(BACKWARD * passes * activations(act, row)) + sum(sizes.values()) - images + carried * passes
    items = [
        Item("student", "weights", everything, device),
        Item("student", "gradients and Adam", 3 * trained, device),
        Item("student", f"a minibatch of {minibatch} and its activations", minibatch * per_row, device, certain=False),
    ]
    saved = 3 * everything  # a checkpoint: weights and Adam
    if policy.state_estimator is not None:
        replay = replay_memory(row["obs"], policy.spec.cameras, config.state_estimator, device)
        rows, module = config.state_estimator.minibatch_size, policy.state_estimator

        def auxiliary_loss(batch: TensorDict) -> Tensor:
            return module.loss(module.error(policy.estimate_state(batch["obs"]), batch["obs", "privileged"]))

        working = rows * (int(BACKWARD * activations(auxiliary_loss, row)) + 2 * images)
        items += [replay, Item("state_estimator", f"a minibatch of {rows} and its activations", working, device, certain=False)]
        saved += replay.bytes
        if cloned:
            drawn = BATCHES_PER_ITERATION * minibatch
            items.append(Item("state_estimator", f"{drawn:,} rows of an iteration", drawn * images, device))
    items.append(Item("checkpoint", "during writing", 2 * saved, CPU, certain=False))
    return items


def _demonstrations(config: RunConfig, sizes: dict[str, int], frames: int) -> Item:
    """Return the memory of the demonstrations that `rpd.datasets.steps.Rows` keeps loaded."""
    steps = demonstrations(config.demos, config.task).num_steps
    size = sum(size // (frames if key.startswith("obs.image.") else 1) for key, size in sizes.items() if key.startswith("obs."))
    return Item("demonstrations", f"{steps:,} steps", min(steps * size, MAX_BYTES), CPU, certain=False)


def _batch(config: RunConfig) -> int:
    return config.ppo.num_steps * config.env.num_envs
