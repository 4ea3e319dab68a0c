"""Configuration of diffusion policies."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DiffusionConfig(BaseModel):
    """Network and noise of a policy that denoises chunks of actions."""

    model_config = ConfigDict(extra="forbid")

    process: Literal["ddpm", "flow"] = "ddpm"
    """Noise process. ddpm: diffusion with a squared-cosine schedule; flow: a straight line from data to noise (flow matching,
    arXiv 2210.02747)."""
    network: Literal["unet", "transformer"] = "unet"
    """Denoising network: a 1-D U-Net over the chunk, or a transformer with one token per action."""
    width: int | None = Field(None, ge=8, le=2**16)
    """Channels of the U-Net at full length (default 64), or width of the transformer's tokens (default 128)."""
    depth: int | None = Field(None, ge=1, le=128)
    """Resolutions of the U-Net, each with half the length and twice the width (default 2), or
    transformer layers (default 4)."""
    n_obs_steps: int = Field(2, ge=1, le=1024)
    """Number of observations in the window, including the newest."""
    horizon: int = Field(16, ge=2, le=1024)
    """Actions per chunk; for the U-Net, a multiple of 2^(depth - 1)."""
    num_train_timesteps: int = Field(100, ge=2, le=1000)
    """Number of noise levels."""
    noise: Literal["chunk", "action"] = "chunk"
    """chunk: the same noise level for all actions of a chunk; action: in half of the training samples, later actions are
    noisier, as the sampler `streaming` needs."""
    gripper_scale: float = Field(1.0, gt=0, le=1)
    """Value of a discrete action ±1 in the chunk. 0.1 is RTI's option `scale`: flipping it then is a small step within reach of
    a warm start."""
