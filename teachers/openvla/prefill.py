"""Process images and prompts of many observations to decoding contexts, in batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rpd.teachers.openvla import processing
from rpd.teachers.openvla.cache import VisualTokenCache
from rpd.teachers.openvla.config import ProcessorConfig
from rpd.teachers.openvla.decode import Context, prefill, prefill_text
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.prompt import pad


class Reader:
    """Processes every image, equal ones once.

    Args:
        model: the network.
        processor: the checkpoint's image processing.
        batch: rows per forward pass.
        crop: fraction of the image area to use; None: all.
    """

    def __init__(self, model: OpenVLA, processor: ProcessorConfig, batch: int, crop: float | None) -> None:
        self.model, self.processor, self.batch, self.crop = model, processor, batch, crop

    def read(self, images: Tensor, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Context]]:
        """Yield rows [K] and their context; each row is yielded once.

        Args:
            images: uint8 [N, H, W, 3].
            prompts: N prompts as token ids.
        """
        first, which = distinct(images)
        some = self.prepare(images[first])
        visual = torch.cat(
            [self.model.encode_images(processing.normalize(part, self.processor)) for part in some.split(self.batch)]
        )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # minimizes padding within batches
        for rows in torch.tensor(order, device=images.device).split(self.batch):
            ids, mask = pad([prompts[i] for i in rows.tolist()], self.model.config.pad_token_id)
            yield rows, prefill(self.model, visual[which[rows]], ids.to(images.device), mask.to(images.device))

    def prepare(self, images: Tensor) -> Tensor:
        """Crop and resize: uint8 [N, H, W, 3] -> uint8 [N, S, S, 3]."""
        return processing.resize(images if self.crop is None else processing.crop_area(images, self.crop), self.processor)

    def reset(self, mask: Tensor) -> None:
        """Clear memory of environments where mask [N] is True."""


class CachedReader(Reader):
    """Processes only changed patches: row i is environment i in every call, with a static camera.

    Args:
        model: the network.
        processor: the checkpoint's image processing.
        batch: rows per forward pass.
        crop: fraction of the image area to use; None: all.
        bos: id of the first token of every prompt.
        eps: see `VisualTokenCache`.
    """

    def __init__(
        self, model: OpenVLA, processor: ProcessorConfig, batch: int, crop: float | None, bos: int, eps: float
    ) -> None:
        super().__init__(model, processor, batch, crop)
        self.bos, self.eps = bos, eps
        self.caches: list[VisualTokenCache] = []  # one per batch: keeps copies of cached tensors small

    def read(self, images: Tensor, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Context]]:
        """See `Reader.read`; rows keep their order."""
        for i, rows in enumerate(torch.arange(len(images), device=images.device).split(self.batch)):
            if i == len(self.caches):
                self.caches.append(VisualTokenCache(self.model, self.bos, self.eps))
            some = self.prepare(images[rows])
            prefix = self.caches[i](some, processing.normalize(some, self.processor).to(self.model.dtype))
            ids, mask = pad([prompts[j] for j in rows.tolist()], self.model.config.pad_token_id)
            yield rows, prefill_text(self.model, prefix, ids.to(images.device), mask.to(images.device))

    def reset(self, mask: Tensor) -> None:
        """See `Reader.reset`. Rows beyond the end of the mask are cleared, too."""
        parts = mask.split(self.batch)
        del self.caches[len(parts) :]
        for cache, part in zip(self.caches, parts, strict=False):
            cache.reset(part)


def distinct(images: Tensor) -> tuple[Tensor, Tensor]:
    """Group equal images: indices [U] of the first image of each group, and the group [N] of each image [N, ...]."""
    kinds: dict[bytes, int] = {}
    which = [kinds.setdefault(image.tobytes(), len(kinds)) for image in images.cpu().numpy()]
    first = [which.index(kind) for kind in range(len(kinds))]
    return torch.tensor(first, device=images.device), torch.tensor(which, device=images.device)
