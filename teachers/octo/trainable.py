"""Train an Octo: behavior cloning with the loss of its head, with a window of one time step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.teachers.octo.checkpoint import Checkpoint
from rpd.teachers.octo.images import resize
from rpd.teachers.octo.language import Words, pad
from rpd.teachers.octo.model import Observation, Octo, Task
from rpd.teachers.octo.setup import PRIMARY
from rpd.teachers.octo.statistics import select
from rpd.teachers.vla import checkpoint_dir, lora
from rpd.teachers.vla.trainable import Minibatch, TrainableVLA

DRAWN = 16
"""Number of samples averaged to an action."""


class TrainableOcto(TrainableVLA):
    """Trains a new or pretrained network of any size, completely or by low-rank adapters; a pretrained T5 stays frozen.

    Args:
        checkpoint: the checkpoint without its weights.
        model: the network.
        key: key of the action statistics in `checkpoint.statistics`.
        scene_weight: see `TrainableVLA`.
        rank: rank of the adapters (LoRA); 0 trains all weights.
        dtype: dtype of the weights that `export` writes, except for the head's, which are float32.

    Raises:
        ConfigError: the model has no input `image_primary`, or fewer action dimensions than the data.
    """

    def __init__(
        self, checkpoint: Checkpoint, model: Octo, key: str, scene_weight: float = 0.0, rank: int = 0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:  # fmt: skip
        self.checkpoint, self.model, self.dtype = checkpoint, model, dtype
        self.words = Words(checkpoint.tokenizer, None, f"octo:{checkpoint.name}")
        self.horizon, self.action_dim = model.config.head.action_horizon, model.config.head.action_dim
        _, self.statistics = select(checkpoint.statistics, key, "normal", checkpoint.name)
        if self.statistics.dim > self.action_dim:
            raise ConfigError(
                f"{checkpoint.name}: has {self.action_dim} action dimensions, the demonstrations {self.statistics.dim}"
            )
        tokenizer = next((name for name in model.tokenizers if model.cameras(name, {PRIMARY: torch.empty(0)})), None)
        if tokenizer is None or PRIMARY not in checkpoint.cameras:
            raise ConfigError(f"{checkpoint.name}: has no input {PRIMARY}, which demonstrations need")
        self.tokenizer = tokenizer
        model.requires_grad_(True)
        model.t5.requires_grad_(model.config.finetune_encoder)
        if rank > 0:
            lora.add(model, rank)
        tokens = model.positions[f"obs_{tokenizer}"]
        super().__init__(model, tokens[0, 0].numel(), scene_weight, model.device)

    def prepare(self, images: Tensor) -> Tensor:
        """See `TrainableVLA.prepare`."""
        return resize(images, self.checkpoint.cameras[PRIMARY])

    def loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """See `TrainableVLA.loss`."""
        seen = self._observe(batch.images)
        visual = self.model.encode_images(seen, {})
        tokens = self.model.run_transformer(visual, seen, self._task(batch.instructions))[
            self.model.config.head.readout_key
        ].float()
        normalized = self.statistics.normalize(batch.actions.cpu().double().numpy()).astype(np.float32)
        missing = self.action_dim - self.statistics.dim
        actions = F.pad(torch.from_numpy(normalized).to(self.model.device), (0, missing))[:, None]  # [N, 1, H, A]
        exists = torch.arange(self.action_dim, device=self.model.device) < self.statistics.dim
        counts = (batch.counts.to(self.model.device)[..., None] & exists)[:, None]
        loss = self.model.head.loss(tokens, actions, counts, self._generator())
        return {"action": loss} | self.auxiliary_loss(visual[self.tokenizer], batch.scene)

    def scene_loss(self, batch: Minibatch) -> dict[str, Tensor]:
        """See `TrainableVLA.scene_loss`."""
        visual = self.model.encode_images(self._observe(batch.images), {})
        return self.auxiliary_loss(visual[self.tokenizer], batch.scene)

    @torch.no_grad()
    def act(self, images: Tensor, instructions: list[str]) -> Tensor:
        """See `TrainableVLA.act`: mean of samples."""
        tokens = self.model.readout(self._observe(images), self._task(instructions))
        shape = (DRAWN,) if self.model.head.is_random else (1,)
        chunks = self.model.head.sample(tokens, shape, self._generator())[..., 0, : self.statistics.dim]
        gain, offset = (torch.from_numpy(v).float().to(chunks.device) for v in self.statistics.affine("normal"))
        return (chunks * gain + offset).mean(0)

    def export(self, folder: Path) -> None:
        """See `TrainableVLA.export`: in the format of `weights.convert`; adapters are merged into the weights."""
        tensors = (
            (name, tensor if name.startswith("head.") else tensor.to(self.dtype)) for name, tensor in lora.merged(self.model)
        )
        checkpoint_dir.write(self.checkpoint.files, tensors, folder)

    def _observe(self, images: Tensor) -> Observation:
        now = images.to(self.model.device)[:, None]
        return Observation({PRIMARY: now}, torch.ones(now.shape[:2], dtype=torch.bool, device=now.device))

    def _task(self, instructions: list[str]) -> Task:
        """Embed each distinct instruction once; gradients flow to T5 if it is trained."""
        texts = sorted(set(instructions))
        ids, mask = pad([self.words.ids(text.strip()) for text in texts], self.model.config.max_tokens)
        vectors = self.model.embed_text(ids.to(self.model.device), mask.to(self.model.device))
        has_instruction = torch.tensor([bool(text.strip()) for text in instructions], device=self.model.device)
        return Task(vectors[torch.tensor([texts.index(text) for text in instructions], device=vectors.device)], has_instruction)

    def _generator(self) -> torch.Generator:
        """Torch's default generator, which a run saves and restores."""
        device = self.model.device
        if device.type == "cuda":
            return torch.cuda.default_generators[device.index or 0]
        return torch.default_generator
