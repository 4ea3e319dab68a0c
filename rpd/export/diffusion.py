"""A diffusion policy as two networks, and its sampler as a list of steps for `actors.Denoising`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from envs.base import VectorEnv
from envs.errors import ConfigError
from envs.specs import EnvSpec
from rpd.export.examples import COUNT, SEED, decided, drawn, recorded
from rpd.export.graph import Widen, narrowed
from rpd.export.parts import Part, Parts, inputs
from students.chunks import Chunks, RecedingHorizon
from students.diffusion.actor import DiffusionActor
from students.diffusion.policy import DiffusionPolicy
from students.diffusion.process import Process
from students.diffusion.samplers.base import Sampler, descent
from students.diffusion.samplers.denoise import Denoise
from students.diffusion.samplers.rti import RealTimeIteration

HALF = 0.5
"""The self-test begins where this much of a noisy chunk is signal. From pure noise, the first steps divide by almost nothing,
and what two runtimes round differently grows a hundredfold: that says nothing of either."""
MARGIN = 1e-3
"""A discrete action closer than this to its turning point, of ±1, is no test: rounding may turn it."""


class Encoding(nn.Module):
    """Features [N, F] of one observation each, from one tensor [N, ...] per key."""

    def __init__(self, policy: DiffusionPolicy, spec: EnvSpec, whole: EnvSpec) -> None:
        super().__init__()
        self.policy, self.widen, self.keys = policy, Widen(spec, whole), ["state", *whole.cameras]

    def forward(self, *seen: Tensor) -> Tensor:
        """See the class; arguments in the order of `keys`."""
        obs = dict(zip(self.keys, seen, strict=True))
        obs["state"] = self.widen(obs["state"])
        return self.policy.encode(obs)


class Predicting(nn.Module):
    """What the network predicts [N, H, A]."""

    inputs = ("x", "level", "context")

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class; arguments x [N, H, A], level [N, H] int64, context [N, n_obs, F]."""
        return self.network(*inputs)


def of_diffusion(policy: DiffusionPolicy, spec: EnvSpec, env: VectorEnv | ConfigError, sampler: str | None) -> Parts:
    """Take a diffusion policy apart.

    Args:
        policy: that was made to fit...
        spec: ... this environment.
        env: to record observations in, or why there is none.
        sampler: how it draws; None: its default.

    Raises:
        ConfigError: no such sampler, or one that needs more than the networks.
    """
    policy = policy.eval().requires_grad_(False)
    actor = DiffusionActor(policy, sampler)
    settings = describe(policy, actor.sampler, actor.chunks)
    own = narrowed(spec, {spec.state_names[column] for column in policy.columns.tolist()})
    encoding = Encoding(policy, own, spec)
    if isinstance(env, ConfigError):
        obs, origin = drawn(spec, policy.columns, policy.state_normalizer), f"drawn at random ({env})"
    else:
        obs, origin = recorded(actor.act, env), f"recorded in {spec.task}"
    levels, is_random = _way(actor.sampler)
    clear = (i for i, level in enumerate(levels) if _signal(policy.process, level) >= HALF)
    settings["start"] = next(clear, len(levels) - 1)
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2 * COUNT, policy.config.horizon, spec.action.dim, generator=generator)
    with torch.no_grad():
        context = policy.encode(obs)[:, None].expand(-1, policy.config.n_obs, -1)
        clean = _denoised(actor.sampler, levels, is_random, context, noise)
        begin = policy.process.noisy(clean, noise, torch.tensor(levels[settings["start"]]))
        x = _denoised(actor.sampler, levels[settings["start"] :], is_random, context, begin)
    margin = (x.abs() / policy.config.gripper_scale).where(policy.discrete, torch.inf).amin((1, 2))
    chosen = decided(margin, MARGIN)
    example = inputs(encoding.keys, {key: rows[chosen] for key, rows in obs.items()}, own, spec)
    level = torch.zeros(COUNT, policy.config.horizon, dtype=torch.long)
    networks = {
        "encoder": Part(encoding, encoding.keys, example),
        "denoiser": Part(Predicting(policy), list(Predicting.inputs), [begin[chosen], level, context[chosen].contiguous()]),
    }
    asked = {key: rows.numpy() for key, rows in zip(encoding.keys, example, strict=True)}
    answers = policy.executed(policy.denormalize(x[chosen])).numpy()
    return Parts(own, networks, asked, answers, origin, begin[chosen].numpy(), settings)


def describe(policy: DiffusionPolicy, sampler: Sampler, chunks: Chunks) -> dict[str, Any]:
    """What `actors.Denoising` has to know, as JSON values.

    Raises:
        ConfigError: a sampler that needs more than the networks.
    """
    if not isinstance(chunks, RecedingHorizon) or not isinstance(sampler, Denoise | RealTimeIteration):
        raise ConfigError(f"sampler {sampler.name} cannot be exported: ddpm, ddim, euler and rti can, without ensemble")
    process, warm = policy.process, None
    if isinstance(sampler, RealTimeIteration):
        if sampler.levels is None:
            raise ConfigError("sampler rti:levels=auto chooses its levels while it runs: name them, e.g. rti:levels=3")
        warm = {
            "steps": steps(process, sampler.levels, process.is_random),
            "discrete": policy.config.gripper_scale / sampler.config.factor if sampler.clip else None,
            "limit": sampler.config.fallback * float(process.parts(torch.tensor(sampler.levels[0]))[1]),
        }
    full, is_random = _way(sampler)
    return {
        "sampler": sampler.name, "horizon": policy.config.horizon, "execute": sampler.execute, "n_obs": policy.config.n_obs,
        "full": steps(process, full, is_random), "warm": warm, "discrete": policy.discrete.tolist(),
        "center": (policy.action_center * policy.rescale).tolist(), "half": (policy.action_half * policy.rescale).tolist(),
    }  # fmt: skip


def steps(process: Process, levels: list[int], is_random: bool) -> list[list[float]]:
    """`Process.step` from level to level, and to clean, as factors: see `actors.Denoising`."""
    rows = []
    for now, then in descent(levels):
        at, to = torch.tensor(now), torch.tensor(then)
        row = (now, *process.parts(at), *process.factors(at, to, is_random))
        rows.append([0.0 if number is None else float(number) for number in row])
    return rows


def _way(sampler: Sampler) -> tuple[list[int], bool]:
    """The levels from noise to a chunk, and whether steps between them are random."""
    if isinstance(sampler, RealTimeIteration):
        return sampler.whole, False
    assert isinstance(sampler, Denoise)
    return sampler.levels, sampler.random


def _signal(process: Process, level: int) -> float:
    return float(process.parts(torch.tensor(level))[0])


def _denoised(sampler: Sampler, levels: list[int], is_random: bool, context: Tensor, x: Tensor) -> Tensor:
    """Chunks from x [N, H, A] at the first level, without noise on the way."""
    for now, then in descent(levels):
        x = sampler.leap(x, now, then, context, torch.zeros_like(x) if is_random else None)
    return x
