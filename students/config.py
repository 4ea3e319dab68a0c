"""How a student is built."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StudentConfig(BaseModel):
    """Network of the actor-critic."""

    model_config = ConfigDict(extra="forbid")

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
    """Let the critic see the simulator's privileged scene in training (the actor never does)."""
    perceive: bool = False
    """Learn from the simulator's privileged scenes to tell from images where things are, and act on that belief alone:
    see `perception`. Needs a task whose scenes are known in training; the policy that comes out does not."""
