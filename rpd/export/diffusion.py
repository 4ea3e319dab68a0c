"""Export of a diffusion policy: two networks, and its sampler as a list of steps for `actors.Denoising`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.envs.vector_env import VectorEnv
from rpd.export.examples import COUNT, SEED, random_observations, record_observations, select_confident
from rpd.export.graph import ExpandState, with_state_entries
from rpd.export.parts import Part, Parts, inputs
from rpd.students.action_chunking import Chunks, RecedingHorizon
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.diffusion.process import Process
from rpd.students.diffusion.samplers.base import Sampler, level_pairs
from rpd.students.diffusion.samplers.denoise import Denoise
from rpd.students.diffusion.samplers.rti import RealTimeIteration

HALF = 0.5
"""Signal fraction of the chunks at which the self-test starts. From pure noise, the first steps divide by almost zero, which
amplifies rounding differences between runtimes a hundredfold, without practical relevance."""
MARGIN = 1e-3
"""Minimum distance of a discrete action in the self-test from its threshold, relative to ±1: rounding may flip closer ones."""


class Encoder(nn.Module):
    """Features [N, F] of single observations, from one tensor [N, ...] per key."""

    def __init__(self, policy: DiffusionPolicy, spec: EnvSpec, whole: EnvSpec) -> None:
        super().__init__()
        self.policy, self.widen, self.keys = policy, ExpandState(spec, whole), ["state", *whole.cameras]

    def forward(self, *seen: Tensor) -> Tensor:
        """See the class; arguments in the order of `keys`."""
        obs = dict(zip(self.keys, seen, strict=True))
        obs["state"] = self.widen(obs["state"])
        return self.policy.encode(obs)


class Denoiser(nn.Module):
    """Prediction of the network [N, H, A]."""

    inputs = ("x", "level", "context")

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class; arguments x [N, H, A], level [N, H] int64, context [N, n_obs, F]."""
        return self.network(*inputs)


def diffusion_parts(policy: DiffusionPolicy, spec: EnvSpec, env: VectorEnv | ConfigError, sampler: str | None) -> Parts:
    """Split a diffusion policy into exportable parts.

    Args:
        policy: policy adapted to `spec`.
        spec: spec of the environment.
        env: environment in which observations are recorded, or the reason why it cannot be built.
        sampler: name of the sampler; None: the default.

    Raises:
        ConfigError: unknown sampler, or one that needs more than the networks.
    """
    policy = policy.eval().requires_grad_(False)
    actor = DiffusionActor(policy, sampler)
    settings = describe(policy, actor.sampler, actor.chunks)
    own = with_state_entries(spec, {spec.state_names[column] for column in policy.columns.tolist()})
    encoding = Encoder(policy, own, spec)
    if isinstance(env, ConfigError):
        obs, origin = random_observations(spec, policy.columns, policy.state_normalizer), f"drawn at random ({env})"
    else:
        obs, origin = record_observations(actor.act, env), f"recorded in {spec.task}"
    levels, is_random = _way(actor.sampler)
    clear = (i for i, level in enumerate(levels) if _signal(policy.process, level) >= HALF)
    settings["start"] = next(clear, len(levels) - 1)
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2 * COUNT, policy.config.horizon, spec.action.dim, generator=generator)
    with torch.no_grad():
        context = policy.encode(obs)[:, None].expand(-1, policy.config.n_obs_steps, -1)
        clean = _denoised(actor.sampler, levels, is_random, context, noise)
        begin = policy.process.noisy(clean, noise, torch.tensor(levels[settings["start"]]))
        x = _denoised(actor.sampler, levels[settings["start"] :], is_random, context, begin)
    margin = (x.abs() / policy.config.gripper_scale).where(policy.discrete, torch.inf).amin((1, 2))
    chosen = select_confident(margin, MARGIN)
    example = inputs(encoding.keys, {key: rows[chosen] for key, rows in obs.items()}, own, spec)
    level = torch.zeros(COUNT, policy.config.horizon, dtype=torch.long)
    networks = {
        "encoder": Part(encoding, encoding.keys, example),
        "denoiser": Part(Denoiser(policy), list(Denoiser.inputs), [begin[chosen], level, context[chosen].contiguous()]),
    }
    asked = {key: rows.numpy() for key, rows in zip(encoding.keys, example, strict=True)}
    answers = policy.executed(policy.denormalize(x[chosen])).numpy()
    return Parts(own, networks, asked, answers, origin, begin[chosen].numpy(), settings)


def describe(policy: DiffusionPolicy, sampler: Sampler, chunks: Chunks) -> dict[str, Any]:
    """Settings of `actors.Denoising`, as JSON values.

    Raises:
        ConfigError: a sampler that needs more than the networks.
    """
    if not isinstance(chunks, RecedingHorizon) or not isinstance(sampler, Denoise | RealTimeIteration):
        raise ConfigError(f"sampler {sampler.name} cannot be exported: ddpm, ddim, euler and rti can, without ensemble")
    process, warm = policy.process, None
    if isinstance(sampler, RealTimeIteration):
        if sampler.levels is None:
            raise ConfigError("sampler rti:timesteps=auto chooses its levels while it runs: name them, e.g. rti:timesteps=3")
        warm = {
            "steps": steps(process, sampler.levels, process.is_random),
            "discrete": policy.config.gripper_scale / sampler.config.factor if sampler.clip else None,
            "limit": sampler.config.fallback * float(process.parts(torch.tensor(sampler.levels[0]))[1]),
        }
    full, is_random = _way(sampler)
    return {
        "sampler": sampler.name, "horizon": policy.config.horizon, "execute": sampler.n_action_steps,
        "n_obs": policy.config.n_obs_steps,
        "full": steps(process, full, is_random), "warm": warm, "discrete": policy.discrete.tolist(),
        "center": (policy.action_center * policy.rescale).tolist(), "half": (policy.action_half * policy.rescale).tolist(),
    }  # fmt: skip


def steps(process: Process, levels: list[int], is_random: bool) -> list[list[float]]:
    """Factors of `Process.step` for each pair of levels, and to clean; see `actors.Denoising`."""
    rows = []
    for now, then in level_pairs(levels):
        at, to = torch.tensor(now), torch.tensor(then)
        row = (now, *process.parts(at), *process.factors(at, to, is_random))
        rows.append([0.0 if number is None else float(number) for number in row])
    return rows


def _way(sampler: Sampler) -> tuple[list[int], bool]:
    """Levels from noise to a chunk, and whether steps between them are random."""
    if isinstance(sampler, RealTimeIteration):
        return sampler.full_levels, False
    assert isinstance(sampler, Denoise)
    return sampler.levels, sampler.random


def _signal(process: Process, level: int) -> float:
    return float(process.parts(torch.tensor(level))[0])


def _denoised(sampler: Sampler, levels: list[int], is_random: bool, context: Tensor, x: Tensor) -> Tensor:
    """Denoise x [N, H, A] from the first level, without added noise."""
    for now, then in level_pairs(levels):
        x = sampler.denoise_step(x, now, then, context, torch.zeros_like(x) if is_random else None)
    return x
