"""What training needs of a model that learns from demonstrations and then teaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from envs.privileged import Scene
from students.perception import TOLERANCE


@dataclass(frozen=True)
class Minibatch:
    """N observations, and what was answered to them and to those that followed."""

    images: Tensor
    """uint8 [N, S, S, 3], from `Learner.prepare`."""
    instructions: list[str]
    actions: Tensor
    """[N, H, A] labels of this control step and the next, in the units of the demonstrations."""
    counts: Tensor
    """[N, H] bool: which of these there were; after the end of an episode its last one is repeated."""
    scene: Tensor | None = None
    """[N, Scene.dim], where the learner needs it."""


class SceneHead(nn.Linear):
    """Tells `Scene.relative` from visual tokens, while a model learns: stands in for the pre-training of its eyes."""

    def __init__(self, width: int) -> None:
        """`width`: numbers of all tokens of an observation."""
        super().__init__(width, Scene.relative_dim)

    def loss(self, visual: Tensor, scene: Tensor) -> Tensor:
        """Mean squared error, weighted by what matters, of what visual tokens [N, ...] say of scenes [N, Scene.dim]."""
        error = self(visual.flatten(1).float()) - Scene.relative(scene.to(visual.device))
        return (torch.tensor(TOLERANCE, device=visual.device) * error).square().sum(-1).mean()


class Learner(ABC):
    """A vision-language-action model that is trained: images and instructions in, actions out.

    Attributes:
        module: everything that is trained or runs, also what only training needs.
        needs_scene: whether `loss` reads the simulator's privileged scenes.
        horizon: actions of a chunk, H.
    """

    horizon: int = 1

    def __init__(self, model: nn.Module, tokens: int, scene_weight: float, device: torch.device) -> None:
        """Begin with a model, whose parameters learn where they require gradients.

        Args:
            model: the network.
            tokens: numbers of all visual tokens of an observation.
            scene_weight: of an auxiliary loss that tells `Scene.relative` from these. It takes the place of the pre-training
                that new eyes have not had, and leaves no trace in the checkpoint.
            device: of the model.
        """
        self.scene_weight, self.needs_scene = scene_weight, scene_weight > 0
        self.telling = SceneHead(tokens).to(device) if self.needs_scene else None
        self.module = nn.ModuleDict({"model": model} | ({"scene": self.telling} if self.telling else {}))

    def tell(self, visual: Tensor, scene: Tensor | None) -> dict[str, Tensor]:
        """The part of the loss that tells scenes [N, Scene.dim] from visual tokens [N, ...]; empty where nothing shall."""
        if self.telling is None or scene is None:
            return {}
        return {"scene": self.scene_weight * self.telling.loss(visual, scene)}

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Resize images uint8 [N, H, W, 3] to what the model sees, once and for all: uint8 [N, S, S, 3]."""

    @abstractmethod
    def loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """Parts of the loss by name, scalars, ``action`` among them; their sum is minimised."""

    @abstractmethod
    def scene_loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """The part of the loss that needs nothing but the eyes, where `needs_scene`."""

    @abstractmethod
    def act(self, images: Tensor, instructions: list[str]) -> Tensor:
        """Answer images from `prepare` as the teacher would: [N, A], in the units of the demonstrations."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write a checkpoint that can be a teacher, into a folder that may not exist yet.

        Raises:
            OSError: e.g. a full disk.
        """
