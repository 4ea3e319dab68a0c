"""How a diffusion policy is built."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DiffusionConfig(BaseModel):
    """Network and noise of a policy that denoises chunks of actions."""

    model_config = ConfigDict(extra="forbid")

    process: Literal["ddpm", "flow"] = "ddpm"
    """What is learnt to be undone: ddpm, noise along a squared-cosine schedule; flow, a straight line from data to noise (flow
    matching, arXiv 2210.02747)."""
    network: Literal["unet", "transformer"] = "unet"
    """What denoises: a 1-D U-Net over the chunk, or a transformer with a token per action."""
    width: int | None = Field(None, ge=8)
    """Channels of the U-Net at full length (default 64), or of the transformer's tokens (default 128)."""
    depth: int | None = Field(None, ge=1)
    """Resolutions of the U-Net, each half as long and twice as wide (default 2), or layers of the transformer (default 4)."""
    n_obs: int = Field(2, ge=1)
    """Observations that are seen, the newest included."""
    horizon: int = Field(16, ge=2)
    """Actions per chunk; for the U-Net a multiple of 2^(depth - 1)."""
    levels: int = Field(100, ge=2)
    """Levels of noise."""
    noise: Literal["chunk", "action"] = "chunk"
    """chunk: all actions of a chunk are equally noisy; action: half of what is learnt from are chunks whose later actions are
    noisier, which the sampler `streaming` needs."""
    gripper_scale: float = Field(1.0, gt=0, le=1)
    """What ±1 of a discrete action is in the chunk. 0.1 is RTI's treatment `scale`: a flip then is a small step, that a warm
    start can take."""
