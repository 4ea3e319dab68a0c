"""Image encoders, and a state estimator that is trained separately from the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from rpd.envs.privileged_state import ManipulationState
from rpd.envs.specs import EnvSpec
from rpd.students.config import StudentConfig
from rpd.students.networks.encoders import ImageEncoder, mlp

Obs: TypeAlias = TensorDict | Mapping[str, Tensor]

HIDDEN = 256
TOLERANCE = (0.5,) * 6 + (0.15,) * 2 + (0.2,)
"""Weight per entry of the error: half a turn between the faces of a cube counts as much as one or two centimeters."""


class Cameras(nn.Module):
    """One encoder per camera; the features are concatenated."""

    def __init__(self, spec: EnvSpec, config: StudentConfig) -> None:
        """Build for the images in `spec`'s observations, ``image.<camera>``."""
        super().__init__()
        self.names = spec.cameras
        self.encoders = nn.ModuleList(
            ImageEncoder(spec.observations[k].shape, config.image_channels, config.image_feature_dim) for k in self.names
        )
        self.dim = config.image_feature_dim * len(self.names)

    def forward(self, obs: Obs) -> Tensor:
        """Encode to [N, dim]."""
        return torch.cat([encoder(obs[k]) for k, encoder in zip(self.names, self.encoders, strict=True)], dim=-1)


class StateEstimator(nn.Module):
    """Estimate `ManipulationState.relative` from images and proprioception.

    Distilling a policy that acts on this estimate is as easy as distilling one that acts on the simulator's state: its few
    inputs keep their meaning while they become more precise. Features trained through the policy loss drift while the policy
    learns, and noisy labels and returns train them slowly.
    """

    tolerance: Tensor

    def __init__(self, spec: EnvSpec, config: StudentConfig) -> None:
        super().__init__()
        self.cameras = Cameras(spec, config)
        state_dim = len(spec.entries(config.state_keys))
        self.head = mlp([state_dim + self.cameras.dim, HIDDEN, ManipulationState.relative_dim], out_gain=1.0)
        self.dim, self.oriented = ManipulationState.relative_dim, spec.oriented
        self.register_buffer("tolerance", torch.tensor(TOLERANCE), persistent=False)

    def forward(self, state: Tensor, obs: Obs) -> Tensor:
        """Estimate the state [N, dim] from the normalized state [N, S] and the images in `obs`."""
        return self.head(torch.cat([state, self.cameras(obs)], dim=-1))

    def error(self, estimate: Tensor, privileged: Tensor) -> Tensor:
        """Error of estimates [N, dim] against scenes [N, ManipulationState.dim], in units of `ManipulationState.relative`."""
        return estimate - ManipulationState.relative(privileged, self.oriented)

    def loss(self, error: Tensor) -> Tensor:
        """Mean squared error of errors [N, dim], weighted by `TOLERANCE`."""
        return (self.tolerance * error).square().sum(-1).mean()
