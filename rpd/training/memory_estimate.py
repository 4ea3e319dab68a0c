"""`rpd doctor --plan`: the memory that a configuration will need, against what there is, before anything starts.

One environment is built to see shapes; batches are counted from its observations and the student's answers, the student's
activations by what autograd keeps of a few rows. A large teacher is not loaded: its family says what it will take.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict
from torch import Tensor

from envs import registry as envs
from envs.base import EnvConfig, VectorEnv
from envs.errors import ConfigError
from rpd import memory
from rpd.batch import PREFIX
from rpd.config import RunConfig
from rpd.demos.rows import MAX_BYTES
from rpd.distill import bins, choose
from rpd.imitation import demonstrations
from rpd.memory import Item
from rpd.perception import kept
from rpd.policies import teacher_of
from rpd.residual import make_policy
from rpd.settings import train_options
from rpd.trainer import MAX_EVAL_ENVS, eval_config, make_teacher, resolve_device
from rpd.views import shown_to
from students.actor_critic import ActorCritic
from students.residual import ACTION
from teachers import registry as teachers

CPU = torch.device("cpu")
CUDA_CONTEXT = 500_000_000
"""Bytes that CUDA and its libraries take of a GPU, about."""
BACKWARD = 1.5
"""What a backward pass adds to the activations that it reads: their gradients come and go."""
REMEDY = "lower env.num_envs, ppo.num_steps, env.image_size, env.frames or perception.keep"


@dataclass(frozen=True)
class Plan:
    """What a run will keep in memory."""

    title: str
    items: list[Item]
    held: int
    """Bytes of main memory that this process has by now, as the run's will have: they are among the items."""


def main(args: list[str]) -> int:
    """Print the plan of what `rpd train` would do with `args`; a path in place of a task names a settings file or a run.

    Raises:
        ConfigError: it cannot fit, or it cannot be run at all.
    """
    console, plan = Console(), make(read(args))
    render(plan, console)
    memory.check(plan.items, plan.title, REMEDY, plan.held)
    return 0


def read(args: list[str]) -> RunConfig:
    """The configuration that is meant."""
    first = Path(args[0]) if args else Path()
    file = inside if (inside := first / "config.yaml").is_file() else first
    if file.suffix in (".yaml", ".yml"):
        args = ["--config", str(file), *args[1:]]
    return train_options(args).run_config()


def make(config: RunConfig) -> Plan:
    """Count what a run would take.

    Raises:
        ConfigError: anything that `rpd train` would refuse; a diffusion policy, which nobody has measured.
    """
    if config.student.kind == "diffusion":
        raise ConfigError("student.kind diffusion: its memory is not counted; what grows it is denoise.batch_size, and images")
    torch.manual_seed(config.seed)
    device = torch.device(resolve_device(config.device))
    seen = shown_to(config.env, config.teacher, teacher_of(config.base))
    with contextlib.closing(envs.make(config.task, seen.model_copy(update={"num_envs": 1}), CPU, 1)) as env:
        obs, policy = env.reset(0), make_policy(config, env)
        taught, label = _teacher(config, env, obs, device)
        row = _row(policy, obs, label)
        items = [
            *_simulator(config, seen, env, device),
            *memory.rollout(memory.row_bytes(row), config.ppo.num_steps, config.env.num_envs, device),
            *_student(config, policy, row, device),
            *taught,
        ]
    held = memory.resident()
    items.append(Item("process", "Python, torch and libraries", held, CPU, certain=False))
    if device.type == "cuda":
        items.append(Item("process", "CUDA", CUDA_CONTEXT, device, certain=False))
    return Plan(f"{config.task}, {config.env.num_envs} environments, {config.ppo.num_steps} steps", items, held)


def render(plan: Plan, console: Console) -> None:
    """Print a plan as a table, with totals per device."""
    table = Table(title=plan.title, title_justify="left", header_style="bold")
    for column, justify in (("part", "left"), ("what", "left"), ("where", "left"), ("memory", "right"), ("", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for item in plan.items:
        how = "" if item.certain else "about"
        table.add_row(item.part, item.what, str(item.device), memory.human(item.bytes), how)
    for device in dict.fromkeys(item.device for item in plan.items):
        total, free = sum(item.bytes for item in plan.items if item.device == device), memory.available(device)
        there = "" if free is None else f"of {memory.human(free + (plan.held if device == CPU else 0))}"
        table.add_row("[bold]total[/]", "", str(device), memory.human(total), there, end_section=True)
    console.print(table)


def activations(forward: Callable[[TensorDict], Tensor], row: TensorDict) -> int:
    """Bytes per row that autograd keeps for the backward pass of `forward`; `row` [1] is an example."""

    def alive(rows: int) -> int:
        tensors: dict[int, Tensor] = {}  # by address: what is kept twice counts once

        def pack(tensor: Tensor) -> Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward(cast("TensorDict", torch.cat([row] * rows)))
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

    return (alive(4) - alive(2)) // 2  # parameters, which are the same for any number of rows, cancel


def _simulator(config: RunConfig, seen: EnvConfig, env: VectorEnv, device: torch.device) -> list[Item]:
    """Training's and evaluation's environments, and the observations that they have just returned."""
    judged = eval_config(config.task, seen, config.eval_episodes)
    items = []
    for name, one in (("training", seen), ("evaluation", judged)):
        for what, size in envs.memory(config.task, one, device, config.num_threads).items():
            items.append(Item("simulator", f"{name}: {what}", size, CPU, certain=False))
    looked = sum(view.nbytes for view in env.look().values())
    if looked:
        items.append(Item("teacher", "images that only it sees", max(seen.num_envs, judged.num_envs) * looked, device))
    return items


def _teacher(config: RunConfig, env: VectorEnv, obs: TensorDict, device: torch.device) -> tuple[list[Item], dict[str, Tensor]]:
    """What whoever labels takes, and the fields of a label that a batch holds [1, ...], by name."""
    valid, dims = torch.ones(1, dtype=torch.bool), env.spec.action.dim
    if config.mode == "bc":
        return [], {"valid": valid, "mean": torch.zeros(1, dims)}
    if config.mode == "ppo" or config.teacher is None:
        make_teacher(config, env)  # refuses what does not go together
        return [], {}
    # An evaluation asks about as many environments as it has.
    rows = max(config.env.num_envs, min(config.final_episodes, MAX_EVAL_ENVS))
    large = teachers.footprint(config.teacher, env.spec, device, rows)
    if large is not None:
        label = {name: torch.zeros(1, *shape) for name, shape in large.label.items()}
        items = [
            Item("teacher", "weights", large.weights, device),
            Item("teacher", "a pass, keys and values", large.working, device, certain=False),
        ]
    else:
        teacher = make_teacher(config, env)
        assert teacher is not None
        shown = obs.copy().update(env.look()) if teacher.looks else obs
        label = teacher.label(shown, env.instructions, torch.zeros(1, dims)).tensors()
        weights = sum(tensor.nbytes for tensor in teacher.weights().values())
        items = [Item("teacher", "weights", weights, teacher.device)] if weights else []
    form, gate = choose(config.distill, config.teacher, frozenset(label) - {"valid"})
    if form.digest is not None:
        grid = torch.zeros(1, dims, bins.CELLS)
        size = grid.nbytes + sum(part.nbytes for part in form.digest(grid).values())
        items.append(Item("teacher", "its bins on a grid", size * _batch(config), device, certain=False))
    wanted = form.needs | gate.needs
    return items, {"valid": valid, **{name: tensor for name, tensor in label.items() if name in wanted}}


def _row(policy: ActorCritic, obs: TensorDict, label: dict[str, Tensor]) -> TensorDict:
    """One row [1] of what `rpd.rollout.Collector` keeps."""
    seen = obs.copy()
    if policy.outside is not None:
        seen[ACTION] = torch.zeros(1, policy.spec.action.dim)
    with torch.no_grad():
        seen = policy.perceive(seen)
        distribution, value = policy(seen)
    number, truth = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    fields = {
        "obs": seen, "action": distribution.mode(), "log_prob": number, "value": value,
        "reward": number, "terminated": truth, "truncated": truth, "final_value": number,
    }  # fmt: skip
    return TensorDict({**fields, **{PREFIX + name: tensor for name, tensor in label.items()}}, [1])


def _student(config: RunConfig, policy: ActorCritic, row: TensorDict, device: torch.device) -> list[Item]:
    trained = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    everything = sum(tensor.nbytes for tensor in policy.state_dict().values())
    minibatch = math.ceil(_batch(config) / config.ppo.minibatches)
    sizes, sight = memory.row_bytes(row), config.student.perceive
    images = sum(size for key, size in sizes.items() if key.startswith("obs.image."))
    told = 0 if sight else images  # with beliefs, the policy's epochs do not carry the images
    passes = 2 if policy.config.augment and not sight and config.uses_reward else 1

    def act(rows: TensorDict) -> Tensor:
        distribution, value = policy(rows["obs"])
        return distribution.log_prob(rows["action"]).sum() + distribution.entropy().sum() + value.sum()

    per_row = int(BACKWARD * passes * activations(act, row)) + sum(sizes.values()) - images + told * passes
    items = [
        Item("student", "weights", everything, device),
        Item("student", "gradients and Adam", 3 * trained, device),
        Item("student", f"a minibatch of {minibatch} and its activations", minibatch * per_row, device, certain=False),
    ]
    saved = 3 * everything  # a checkpoint: weights and Adam
    if policy.perception is not None:
        replay = kept(row["obs"], policy.spec.cameras, config.perception, device)
        rows, module = config.perception.minibatch_size, policy.perception

        def tell(batch: TensorDict) -> Tensor:
            return module.loss(module.error(policy.believe(batch["obs"]), batch["obs", "privileged"]))

        working = rows * (int(BACKWARD * activations(tell, row)) + 2 * images)
        items += [replay, Item("perception", f"a minibatch of {rows} and its activations", working, device, certain=False)]
        saved += replay.bytes
    items.append(Item("checkpoint", "while it is written", 2 * saved, CPU, certain=False))
    if config.mode == "bc":
        items.append(_demonstrations(config, sizes, policy.spec.frames))
    return items


def _demonstrations(config: RunConfig, sizes: dict[str, int], frames: int) -> Item:
    """What `rpd.demos.rows.Rows` holds of them in memory."""
    steps = demonstrations(config.demos, config.task).num_steps
    size = sum(size // (frames if key.startswith("obs.image.") else 1) for key, size in sizes.items() if key.startswith("obs."))
    return Item("demonstrations", f"{steps:,} steps", min(steps * size, MAX_BYTES), CPU, certain=False)


def _batch(config: RunConfig) -> int:
    return config.ppo.num_steps * config.env.num_envs
