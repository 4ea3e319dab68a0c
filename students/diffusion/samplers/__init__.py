"""Samplers by name: ``NAME[:KEY=VALUE[,KEY=VALUE]...]``, e.g. ``rti:levels=3`` or ``ddim:steps=16,ensemble=0.01``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from envs.errors import ConfigError, unknown_name
from envs.options import keyed
from students.chunks import Chunks, RecedingHorizon, TemporalEnsemble
from students.diffusion.samplers.base import Sampler, SamplerConfig
from students.diffusion.samplers.denoise import AllSteps, Denoise, FewSteps
from students.diffusion.samplers.rtc import Inpainting, RealTimeChunking
from students.diffusion.samplers.rti import RealTimeIteration, WarmStart
from students.diffusion.samplers.streaming import Stream, Streaming

if TYPE_CHECKING:
    from students.diffusion.policy import DiffusionPolicy

DEFAULT = {"ddpm": "ddim", "flow": "euler"}
"""The sampler of a policy that is not told one, by its process."""


class Kind(NamedTuple):
    """One kind of sampler."""

    build: Any
    """Its class, made from a policy and a configuration."""
    config: type[SamplerConfig]
    process: str | None = None
    """The only process of which it draws."""


KINDS = {
    "ddpm": Kind(Denoise, AllSteps, "ddpm"),
    "ddim": Kind(Denoise, FewSteps, "ddpm"),
    "euler": Kind(Denoise, FewSteps, "flow"),
    "rti": Kind(RealTimeIteration, WarmStart),
    "streaming": Kind(Streaming, Stream),
    "rtc": Kind(RealTimeChunking, Inpainting),
}
ENSEMBLE = "ensemble"
"""Of any sampler: draw at every step and average what the chunks say about it, with this decay (Zhao et al., 2023)."""


def make(name: str | None, policy: DiffusionPolicy) -> tuple[Sampler, Chunks]:
    """Build a sampler, and what takes an action per step from its chunks.

    Args:
        name: see the module; None: the policy's default.
        policy: of which it draws.

    Raises:
        ConfigError: an unknown name or option, a bad value, or a policy that it cannot draw of; one line.
    """
    name = name or DEFAULT[policy.config.process]
    family, _, rest = name.partition(":")
    family, options = family.strip(), keyed(rest.split(",") if rest else [], f"sampler '{name}'", "KEY=VALUE")
    if family not in KINDS:
        raise unknown_name("sampler", family, KINDS)
    kind = KINDS[family]
    if kind.process not in (None, policy.config.process):
        raise ConfigError(
            f"sampler {family} draws of a {kind.process} policy, and this one was trained by {policy.config.process}: "
            f"use {', '.join(n for n, k in KINDS.items() if k.process in (None, policy.config.process))}"
        )
    decay = options.pop(ENSEMBLE, None)
    for key in options:
        if key not in kind.config.model_fields:
            raise unknown_name(f"option of sampler {family}", key, [*kind.config.model_fields, ENSEMBLE])
    if decay is not None:
        if "execute" in options:
            raise ConfigError(f"sampler '{name}': with {ENSEMBLE} a chunk is drawn at every step: leave out execute")
        if family == "streaming":
            raise ConfigError("sampler streaming: most of its buffer is noise, of which there is nothing to average")
        options["execute"] = "1"
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
    return sampler, RecedingHorizon(sampler.execute) if k is None else TemporalEnsemble(k)
