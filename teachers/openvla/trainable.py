"""Train an OpenVLA: behavior cloning with the cross-entropy of action tokens (arXiv 2406.09246, section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rpd.teachers.openvla import decode, processing, weights
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics
from rpd.teachers.openvla.checkpoint import Checkpoint
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.prompt import pad
from rpd.teachers.vla import lora
from rpd.teachers.vla.trainable import Minibatch, TrainableVLA


class TrainableOpenVLA(TrainableVLA):
    """Trains a new or pretrained network of any size, completely or by low-rank adapters.

    Args:
        checkpoint: the checkpoint without its weights.
        model: the network.
        key: key of the action statistics in `checkpoint.statistics`.
        smoothing: standard deviation of the targets over neighboring bins. 0 is the plain cross-entropy, which treats
            neighboring bins like all others; smoothing speeds up training from scratch considerably.
        scene_weight: see `TrainableVLA`.
        rank: rank of the adapters (LoRA); 0 trains all weights.
        dtype: dtype of the weights that `export` writes.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: OpenVLA,
        key: str,
        smoothing: float = 0.0,
        scene_weight: float = 0.0,
        rank: int = 0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.checkpoint, self.model, self.dtype = checkpoint, model, dtype
        self.smoothing = smoothing
        self.statistics = ActionStatistics.model_validate(checkpoint.statistics[key]["action"])
        self.bins = ActionBins(checkpoint.config.vocab, checkpoint.config.n_action_bins)
        self.prompter = checkpoint.prompter(self.statistics.dim)
        model.requires_grad_(True)
        if rank > 0:
            lora.add(model, rank)
        width = model.language_model.config.hidden_size * checkpoint.config.num_patches
        super().__init__(model, width, scene_weight, model.device)

    def prepare(self, images: Tensor) -> Tensor:
        """See `TrainableVLA.prepare`."""
        return processing.resize(images, self.checkpoint.processor)

    def loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """See `TrainableVLA.loss`."""
        normalized = self.statistics.normalize(batch.actions[:, 0].cpu().double().numpy())
        tokens = torch.from_numpy(self.bins.encode(normalized)).to(self.model.device)
        ids, mask = self._prompts(batch.instructions)
        visual = self._see(batch.images)
        logits = self.model.predict(visual, ids, mask, tokens)
        losses = {"action": cross_entropy(logits, tokens, self.bins, self.smoothing)}
        return losses | self.auxiliary_loss(visual, batch.scene)

    def scene_loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """See `TrainableVLA.scene_loss`."""
        return self.auxiliary_loss(self._see(batch.images), batch.scene)

    @torch.no_grad()
    def act(self, images: Tensor, instructions: list[str]) -> Tensor:
        """See `TrainableVLA.act`: greedy action."""
        context = decode.prefill(self.model, self._see(images), *self._prompts(instructions))
        tokens = decode.greedy(self.model, context, self.statistics.dim).tokens
        values = self.statistics.unnormalize(self.bins.decode(tokens.cpu().numpy()))
        return torch.from_numpy(values.astype(np.float32))

    def export(self, folder: Path) -> None:
        """See `TrainableVLA.export`: in the official layout; adapters are merged into the weights."""
        tensors = ((name, tensor.to(self.dtype)) for name, tensor in lora.merged(self.model))
        config = self.checkpoint.config.model_copy(update={"torch_dtype": str(self.dtype).removeprefix("torch.")})
        weights.save(replace(self.checkpoint, config=config), tensors, folder)

    def _see(self, images: Tensor) -> Tensor:
        return self.model.encode_images(processing.normalize(images.to(self.model.device), self.checkpoint.processor))

    def _prompts(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        ids, mask = pad([self.prompter.ids(text) for text in instructions], self.checkpoint.config.pad_token_id)
        return ids.to(self.model.device), mask.to(self.model.device)


def cross_entropy(logits: Tensor, tokens: Tensor, bins: ActionBins, smoothing: float) -> Tensor:
    """-sum_k q_k log p_k over the vocabulary, mean over tokens.

    q is one-hot, or with `smoothing` a discretized Gaussian around the token over the action tokens.

    Args:
        logits: [N, D, V + padding].
        tokens: [N, D] ids of action tokens.
        bins: the action tokens.
        smoothing: standard deviation of q, bins.
    """
    if smoothing == 0:
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    ids = torch.arange(bins.vocab - bins.bins, bins.vocab, device=tokens.device)
    q = torch.softmax(-0.5 * ((ids - tokens[..., None]) / smoothing).square(), -1)
    return -(q * logits.log_softmax(-1)[..., bins.vocab - bins.bins : bins.vocab]).sum(-1).mean()
