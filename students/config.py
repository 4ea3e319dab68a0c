"""Configuration of students."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field


class StudentConfig(BaseModel):
    """Network of the student."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[Literal["actor-critic", "diffusion"], tyro.conf.arg(aliases=("--student",))] = "actor-critic"
    """actor-critic: one forward pass per action, supports every algorithm. diffusion: denoises chunks of actions, trained by
    algorithm bc (see diffusion and bc)."""
    state_keys: tuple[str, ...] = ()
    """Groups of state entries that the policy reads, e.g. gripper object goal; default: all. Without the joints (q dq) the
    policy also fits other robots that act in the same units."""
    hidden_dims: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = (256, 256)
    """Widths of the hidden layers of actor and critic."""
    image_feature_dim: int = Field(128, ge=8, le=2**16)
    """Output size of the image encoder, per camera."""
    image_channels: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = (32, 32)
    """Channels of the image encoder: patch embedding, then each 3 x 3 convolution."""
    init_log_std: float = -1.6
    """Initial log standard deviation of the continuous action dimensions."""
    min_log_std: float = -4.0
    """Lower bound of the log standard deviation."""
    normalize_state: bool = True
    """Whiten the state with running statistics, saved with the policy."""
    asymmetric_critic: bool = False
    """Give the critic privileged simulator state during training (never the actor): the scene or, in navigation, the shortest
    path."""
    augment: tuple[Literal["shift", "color"], ...] = ()
    """Image augmentation in the losses, drawn per update; rollouts and evaluations use the original images. shift: up to 4
    pixels (DrQ); color: brightness, contrast and saturation by up to 20 %. See rpd/algorithms/augmentation.py."""
    state_estimator: bool = False
    """Estimate object positions from images, supervised by the simulator's privileged state, and act on the estimate instead of
    image features: see `state_estimator`. Needs a task with privileged state in training; the trained policy does not."""


class ResidualConfig(BaseModel):
    """A student that corrects a frozen base: a = clip(a_base + alpha * tanh(f(o, a_base)), -1, 1), with f = 0 at the start."""

    model_config = ConfigDict(extra="forbid")

    alpha: float = Field(2.0, gt=0, le=2)
    """Final limit of the correction per continuous action dimension, whose range is -1 to 1. With 2, any action is reachable;
    COMPASS uses 1, which cannot reverse a base action at one end of the range."""
    alpha_init: float = Field(0.2, ge=0, le=2)
    """Initial limit of the correction."""
    alpha_warmup_fraction: float = Field(0.3, ge=0, le=1)
    """Fraction of the run over which alpha changes linearly from its initial to its final value."""
    base_logit_scale: float = Field(3.0, gt=0)
    """Initial log-odds of the base's choice in a discrete dimension (a gripper); f is added to them."""
    base_input: Literal["action", "features"] = "action"
    """Inputs from the base: its action, or its action and its last hidden layer."""

    def alpha_at(self, progress: float) -> float:
        """Alpha at a point of the run, progress in [0, 1]."""
        grown = min(1.0, progress / self.alpha_warmup_fraction) if self.alpha_warmup_fraction else 1.0
        return self.alpha_init + (self.alpha - self.alpha_init) * grown


class GeneralistConfig(BaseModel):
    """One policy for several robots: inputs that identify the robot, and shared layers."""

    model_config = ConfigDict(extra="forbid")

    embodiment: Annotated[Literal["descriptor", "one-hot", "none"], tyro.conf.arg(aliases=("--embodiment",))] = "descriptor"
    """Input that identifies the robot. descriptor: its physics (`Embodiment.descriptor`), normalized over the robots; also
    describes robots outside the training set. one-hot: its index, all zeros for an unknown robot. none: no input."""
    descriptor_keys: tuple[str, ...] = ()
    """Entries of the descriptor to read, e.g. reach delay; default: those that all robots have and that differ."""
    network: Annotated[Literal["plain", "moe", "dual-head"], tyro.conf.arg(aliases=("--network",))] = "plain"
    """plain: all robots share all layers. moe: the last hidden layer is a mixture of experts, weighted by the embodiment
    features. dual-head: two output layers; when the student is fine-tuned (`rpd train --pretrained-path`), reinforcement
    learning trains the second and a teacher the first."""
    experts: int = Field(4, ge=1, le=1024)
    """Number of experts of network moe."""
