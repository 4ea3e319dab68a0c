"""Samplers by name: ``NAME[:KEY=VALUE[,KEY=VALUE]...]``, e.g. ``rti:timesteps=3`` or ``ddim:steps=16,ensemble=0.01``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.options import keyed
from rpd.students.action_chunking import Chunks, RecedingHorizon, TemporalEnsemble
from rpd.students.diffusion.samplers.base import Sampler, SamplerConfig
from rpd.students.diffusion.samplers.denoise import AllSteps, Denoise, FewSteps
from rpd.students.diffusion.samplers.rtc import Inpainting, RealTimeChunking
from rpd.students.diffusion.samplers.rti import RealTimeIteration, WarmStart
from rpd.students.diffusion.samplers.streaming import Stream, Streaming

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy

DEFAULT = {"ddpm": "ddim", "flow": "euler"}
"""Default sampler by process."""


class SamplerKind(NamedTuple):
    """A kind of sampler."""

    build: Any
    """Its class; called with a policy and a configuration."""
    config: type[SamplerConfig]
    process: str | None = None
    """The only process it supports; None: all."""


SAMPLERS = {
    "ddpm": SamplerKind(Denoise, AllSteps, "ddpm"),
    "ddim": SamplerKind(Denoise, FewSteps, "ddpm"),
    "euler": SamplerKind(Denoise, FewSteps, "flow"),
    "rti": SamplerKind(RealTimeIteration, WarmStart),
    "streaming": SamplerKind(Streaming, Stream),
    "rtc": SamplerKind(RealTimeChunking, Inpainting),
}
RENAMED = {"execute": "n_action_steps", "levels": "timesteps", "start": "start_timestep"}
"""Present names of options by their former ones, for error messages."""
ENSEMBLE = "ensemble"
"""Option of every sampler: draw a chunk at every step and average their predictions, with this decay (Zhao et al., 2023)."""


def make(name: str | None, policy: DiffusionPolicy) -> tuple[Sampler, Chunks]:
    """Build a sampler, and the component that executes its chunks one action per step.

    Args:
        name: see the module docstring; None: the policy's default.
        policy: the policy to sample from.

    Raises:
        ConfigError: an unknown name or option, a bad value, or a policy that the sampler does not support.
    """
    name = name or DEFAULT[policy.config.process]
    family, _, rest = name.partition(":")
    family, options = family.strip(), keyed(rest.split(",") if rest else [], f"sampler '{name}'", "KEY=VALUE")
    if family not in SAMPLERS:
        raise unknown_name("sampler", family, SAMPLERS)
    kind = SAMPLERS[family]
    if kind.process not in (None, policy.config.process):
        raise ConfigError(
            f"sampler {family} needs a {kind.process} policy, and this one was trained with {policy.config.process}: "
            f"use {', '.join(n for n, k in SAMPLERS.items() if k.process in (None, policy.config.process))}"
        )
    decay = options.pop(ENSEMBLE, None)
    for key in options:
        if key not in kind.config.model_fields:
            raise unknown_name(f"option of sampler {family}", key, [*kind.config.model_fields, ENSEMBLE], RENAMED)
    if decay is not None:
        if "n_action_steps" in options:
            raise ConfigError(f"sampler '{name}': with {ENSEMBLE} a chunk is drawn at every step: leave out n_action_steps")
        if family == "streaming":
            raise ConfigError(f"sampler streaming does not support {ENSEMBLE}: most of its buffer is noise")
        options["n_action_steps"] = "1"
    try:
        config = kind.config.model_validate(options)
        k = None if decay is None else float(decay)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"sampler {family}: {first['loc'][0]}={first['input']}: {first['msg']}") from None
    except ValueError:
        raise ConfigError(f"sampler {family}: {ENSEMBLE}={decay}: a number, e.g. 0.01") from None
    try:
        sampler: Sampler = kind.build(policy, config)
    except ConfigError as error:
        raise ConfigError(f"sampler {family}: {error}") from None
    sampler.name = name
    return sampler, RecedingHorizon(sampler.n_action_steps) if k is None else TemporalEnsemble(k)
