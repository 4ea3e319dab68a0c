"""Interface for training vision-language-action models on demonstrations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rpd.envs.privileged_state import ManipulationState
from rpd.students.networks.state_estimator import TOLERANCE


@dataclass(frozen=True)
class Minibatch:
    """N observations, with the labels of these and the following control steps."""

    images: Tensor
    """uint8 [N, S, S, 3], from `TrainableVLA.prepare`."""
    instructions: list[str]
    actions: Tensor
    """[N, H, A] labels of the control step and the following ones, in the units of the demonstrations."""
    counts: Tensor
    """[N, H] bool: existing steps; beyond the end of an episode, its last label is repeated."""
    scene: Tensor | None = None
    """[N, ManipulationState.dim], if `needs_scene`."""


class SceneHead(nn.Linear):
    """Predicts `ManipulationState.relative` from visual tokens in training, in place of a pretrained vision encoder."""

    def __init__(self, width: int) -> None:
        """Build for `width` numbers: all visual tokens of an observation."""
        super().__init__(width, ManipulationState.relative_dim)

    def loss(self, visual: Tensor, scene: Tensor) -> Tensor:
        """Weighted mean squared error of the scenes [N, ManipulationState.dim] predicted from visual tokens [N, ...]."""
        error = self(visual.flatten(1).float()) - ManipulationState.relative(scene.to(visual.device))
        return (torch.tensor(TOLERANCE, device=visual.device) * error).square().sum(-1).mean()


class TrainableVLA(ABC):
    """A vision-language-action model in training: images and instructions in, actions out.

    Attributes:
        module: all modules, including those used in training only.
        needs_scene: whether `loss` reads privileged scenes.
        horizon: actions per chunk, H.
    """

    horizon: int = 1

    def __init__(self, model: nn.Module, tokens: int, scene_weight: float, device: torch.device) -> None:
        """Wrap a model; parameters with ``requires_grad`` are trained.

        Args:
            model: the network.
            tokens: numbers in all visual tokens of an observation.
            scene_weight: weight of an auxiliary loss that predicts `ManipulationState.relative` from the visual tokens. It
            substitutes the
                pretraining that a new vision encoder lacks, and is not part of the checkpoint.
            device: device of the model.
        """
        self.scene_weight, self.needs_scene = scene_weight, scene_weight > 0
        self.telling = SceneHead(tokens).to(device) if self.needs_scene else None
        self.module = nn.ModuleDict({"model": model} | ({"scene": self.telling} if self.telling else {}))

    def auxiliary_loss(self, visual: Tensor, scene: Tensor | None) -> dict[str, Tensor]:
        """Auxiliary loss that predicts scenes [N, ManipulationState.dim] from visual tokens [N, ...]; empty if disabled."""
        if self.telling is None or scene is None:
            return {}
        return {"scene": self.scene_weight * self.telling.loss(visual, scene)}

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Resize images uint8 [N, H, W, 3] to the model's input size, once: uint8 [N, S, S, 3]."""

    @abstractmethod
    def loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """Scalar parts of the loss by name, including ``action``; their sum is minimized."""

    @abstractmethod
    def scene_loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """The auxiliary loss alone, which needs only the vision encoder; if `needs_scene`."""

    @abstractmethod
    def act(self, images: Tensor, instructions: list[str]) -> Tensor:
        """Actions [N, A] for images from `prepare`, as of the teacher, in the units of the demonstrations."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write a checkpoint that can be used as a teacher; the folder must not exist.

        Raises:
            OSError: e.g. a full disk.
        """
