"""What training needs of a model that learns from demonstrations and then teaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn


class Learner(ABC):
    """A vision-language-action model that is trained: images and instructions in, actions out.

    Attributes:
        module: everything that is trained or runs, also what only training needs.
        needs_scene: whether `loss` reads the simulator's privileged scenes.
    """

    module: nn.Module
    needs_scene: bool = False

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Resize images uint8 [N, H, W, 3] to what the model sees, once and for all: uint8 [N, S, S, 3]."""

    @abstractmethod
    def loss(self, images: Tensor, instructions: list[str], actions: Tensor, scene: Tensor | None) -> dict[str, Tensor]:
        """Parts of the loss by name, scalars; their sum is minimised.

        Args:
            images: [N, S, S, 3] from `prepare`.
            instructions: N strings.
            actions: [N, A] labels, in the units of the demonstrations.
            scene: [N, Scene.dim], where `needs_scene`.
        """

    @abstractmethod
    def scene_loss(self, images: Tensor, scene: Tensor) -> dict[str, Tensor]:
        """The part of the loss that needs nothing but the eyes, where `needs_scene`."""

    @abstractmethod
    def act(self, images: Tensor, instructions: list[str]) -> Tensor:
        """Answer as the teacher would: [N, A], in the units of the demonstrations."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write a checkpoint that can be a teacher, into a folder that may not exist yet.

        Raises:
            OSError: e.g. a full disk.
        """
