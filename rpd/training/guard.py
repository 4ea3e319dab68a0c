"""Check the memory of a run before anything is built."""

from __future__ import annotations

import itertools

import torch

from rpd.config.schema import RunConfig
from rpd.core import memory
from rpd.core.device import resolve_device
from rpd.core.memory import Item
from rpd.envs import registry as envs
from rpd.evaluation.environments import eval_config
from rpd.training import memory_estimate

CPU = torch.device("cpu")
ROW, IMAGE_SIZE = 200, 64
"""Bytes of a batch row without images, and default image size in pixels; both are lower estimates."""
LARGE = 10**9
"""Bytes above which one environment is built for the full estimate of `rpd doctor --plan`."""


def check(config: RunConfig) -> None:
    """Check that a run fits into memory: first a lower bound from the configuration, then a full estimate if it is large.

    Raises:
        ConfigError: the run does not fit; states the required and available memory and the largest part.
    """
    envs.task_info(config.task)  # an unknown task is reported first
    items = at_least(config, torch.device(resolve_device(config.device)))
    memory.check(items, f"{memory_estimate.title(config)},", memory_estimate.remedy(config))
    if sum(item.bytes for item in items) > LARGE and config.student.type != "diffusion":
        whole = memory_estimate.make(config)
        memory.check(whole.items, whole.title, whole.remedy, whole.held)


def at_least(config: RunConfig, device: torch.device) -> list[Item]:
    """Return a lower bound of the memory of a run, from its configuration alone."""
    env, cloned = config.env, config.algorithm == "bc"
    images = len(env.cameras or ("one",)) * 3 * (env.image_size or IMAGE_SIZE) ** 2 if env.obs_mode == "rgb" else 0
    rows = config.ppo.num_steps * env.num_envs
    if cloned:
        rows = config.bc.batch_size * (config.diffusion.n_obs_steps if config.student.type == "diffusion" else 1)
    # hidden layers of the actor only: weights, gradients, and the two moments of Adam
    weights = 16 * sum(a * b for a, b in itertools.pairwise(config.student.hidden_dims))
    simulated = eval_config(config.task, env, config.eval_episodes) if cloned else env
    simulations = envs.memory(config.task, simulated, device, config.num_threads)
    items = [Item("simulator", what, size, CPU, certain=False) for what, size in simulations.items()]
    items += [
        Item(
            "batch" if cloned else "rollout",
            f"of {rows:,} rows",
            rows * (ROW + env.frame_stack * images),
            device,
            certain=False,
        ),
        Item("student", "weights, gradients and Adam", weights, device, certain=False),
    ]
    if config.student.state_estimator:
        what = f"{config.state_estimator.replay_capacity:,} replayed observations"
        items.append(
            Item("state_estimator", what, config.state_estimator.replay_capacity * (ROW + images), device, certain=False)
        )
    return items
