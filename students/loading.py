"""Load a policy folder of any kind of student."""

from __future__ import annotations

from pathlib import Path

import torch

from rpd.students.actor_critic import ActorCritic
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.io import pretrained


def load(folder: Path, device: torch.device | str = "cpu") -> ActorCritic | DiffusionPolicy:
    """Load a policy folder.

    Raises:
        ConfigError: one line that names the file that is missing or damaged.
    """
    policy = pretrained.load(folder, device)
    assert isinstance(policy, ActorCritic | DiffusionPolicy), "every class of pretrained.CLASSES is one of these"
    return policy
