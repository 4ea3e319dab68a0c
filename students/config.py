"""How a student is built."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field


class StudentConfig(BaseModel):
    """Network of the student."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[Literal["actor-critic", "diffusion"], tyro.conf.arg(aliases=("--student",))] = "actor-critic"
    """actor-critic: one forward pass per action, learns in every mode; diffusion: denoises chunks of actions, learns in mode bc
    (see diffusion and denoise)."""
    reads: tuple[str, ...] = ()
    """Groups of state entries that are read, e.g. gripper object goal; default: all. Without the joints (q dq) the policy also
    fits robots that it was not trained on, if they act in the same units."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critic."""
    image_features: int = Field(128, ge=8)
    """Size of the image encoder's output, per camera."""
    image_channels: tuple[int, ...] = (32, 32)
    """Channels of the image encoder: of its patches, then of each 3 x 3 convolution."""
    init_log_std: float = -1.6
    """Initial log standard deviation of the continuous action dimensions."""
    min_log_std: float = -4.0
    """Lower bound of the log standard deviation."""
    normalize_state: bool = True
    """Whiten the state with running statistics, saved with the policy."""
    asymmetric_critic: bool = False
    """Let the critic see in training what the simulator knows (the actor never does): the scene, or in navigation the shortest
    path."""
    augment: tuple[Literal["shift", "color"], ...] = ()
    """What the losses do to images, drawn anew each time; rollouts and evaluations see them as they are. shift: up to 4 pixels
    (DrQ); color: brightness, contrast and saturation by up to 20 %. See rpd/augment.py."""
    perceive: bool = False
    """Learn from the simulator's privileged scenes to tell from images where things are, and act on that belief alone:
    see `perception`. Needs a task whose scenes are known in training; the policy that comes out does not."""


class ResidualConfig(BaseModel):
    """How a student adds to a frozen base: a = clip(a_base + alpha * tanh(f(o, a_base)), -1, 1), f = 0 at the start."""

    model_config = ConfigDict(extra="forbid")

    alpha: float = Field(2.0, gt=0, le=2)
    """How far the student may move a continuous dimension of the action in the end, of a range from -1 to 1. At 2, anywhere;
    COMPASS has 1, with which it cannot turn a base around that swings from one end to the other."""
    alpha_start: float = Field(0.2, ge=0, le=2)
    """The same at the start."""
    ramp: float = Field(0.3, ge=0, le=1)
    """Fraction of the run over which alpha changes, linearly."""
    discrete_odds: float = Field(3.0, gt=0)
    """Log-odds with which the base's choice in a discrete dimension (a gripper) stands at the start; f adds to them."""
    sees: Literal["action", "features"] = "action"
    """What the student knows of the base: the action that it proposes; or its last hidden layer, too."""

    def alpha_at(self, progress: float) -> float:
        """Alpha at a point of the run, in [0, 1]."""
        grown = min(1.0, progress / self.ramp) if self.ramp else 1.0
        return self.alpha_start + (self.alpha - self.alpha_start) * grown


class GeneralistConfig(BaseModel):
    """How one student is several robots': what it knows of the one that it is, and how much of it they share."""

    model_config = ConfigDict(extra="forbid")

    embodiment: Annotated[Literal["descriptor", "one-hot", "none"], tyro.conf.arg(aliases=("--embodiment",))] = "descriptor"
    """What the student knows of its robot. descriptor: its physics (`Embodiment.descriptor`), normalised over the robots: also
    says something of a robot that it has never been. one-hot: which of them it is, all zeros for another. none: nothing."""
    describe: tuple[str, ...] = ()
    """Entries of the descriptor that are read, e.g. reach delay; default: those that all robots have and that differ."""
    network: Annotated[Literal["plain", "moe", "dual-head"], tyro.conf.arg(aliases=("--network",))] = "plain"
    """plain: all robots share all layers. moe: the last hidden layer is a mixture of experts, weighted by what is known of the
    robot. dual-head: a second last layer, which reinforcement learning moves when the student is trained on
    (`rpd train --init`), and the first one a teacher."""
    experts: int = Field(4, ge=1)
    """Number of experts of a moe."""
