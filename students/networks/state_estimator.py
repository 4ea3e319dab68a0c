"""What a student makes of images: features that are learnt with the policy, or beliefs that are learnt apart from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from envs.privileged import Scene
from envs.specs import EnvSpec
from students.config import StudentConfig
from students.encoders import ImageEncoder, mlp

Obs: TypeAlias = TensorDict | Mapping[str, Tensor]

HIDDEN = 256
TOLERANCE = (0.5,) * 6 + (0.15,) * 2 + (0.2,)
"""Weight of each entry's error: half a turn between the faces of a cube matters as much as a centimetre or two."""


class Cameras(nn.Module):
    """One encoder per camera; their features side by side."""

    def __init__(self, spec: EnvSpec, config: StudentConfig) -> None:
        """Build for the images among the observations of `spec`, ``image.<camera>``."""
        super().__init__()
        self.names = spec.cameras
        self.encoders = nn.ModuleList(
            ImageEncoder(spec.observations[k].shape, config.image_channels, config.image_features) for k in self.names
        )
        self.dim = config.image_features * len(self.names)

    def forward(self, obs: Obs) -> Tensor:
        """Encode to [N, dim]."""
        return torch.cat([encoder(obs[k]) for k, encoder in zip(self.names, self.encoders, strict=True)], dim=-1)


class Perception(nn.Module):
    """Tells from images and proprioception what `Scene.relative` would say.

    A policy that acts on such a belief is as easy to distil as one that acts on the simulator's state: the few numbers
    that it reads keep their meaning while they become more precise. Features that are learnt through the policy's loss
    move under it, and noisy labels and returns teach them slowly.
    """

    tolerance: Tensor

    def __init__(self, spec: EnvSpec, config: StudentConfig) -> None:
        super().__init__()
        self.cameras = Cameras(spec, config)
        state_dim = len(spec.entries(config.reads))
        self.head = mlp([state_dim + self.cameras.dim, HIDDEN, Scene.relative_dim], out_gain=1.0)
        self.dim, self.oriented = Scene.relative_dim, spec.oriented
        self.register_buffer("tolerance", torch.tensor(TOLERANCE), persistent=False)

    def forward(self, state: Tensor, obs: Obs) -> Tensor:
        """Return beliefs [N, dim] from the normalised state [N, S] and the images in `obs`."""
        return self.head(torch.cat([state, self.cameras(obs)], dim=-1))

    def error(self, belief: Tensor, privileged: Tensor) -> Tensor:
        """How far beliefs [N, dim] are from the truth in privileged [N, Scene.dim], in the units of `Scene.relative`."""
        return belief - Scene.relative(privileged, self.oriented)

    def loss(self, error: Tensor) -> Tensor:
        """Mean squared error, of errors [N, dim] weighted by what matters."""
        return (self.tolerance * error).square().sum(-1).mean()
