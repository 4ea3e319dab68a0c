"""Images and prompts of many observations to contexts for decoding, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from teachers.openvla import processing
from teachers.openvla.cache import VisualTokenCache
from teachers.openvla.config import ProcessorConfig
from teachers.openvla.decode import Context, prefill, prefill_text
from teachers.openvla.model import OpenVLA
from teachers.openvla.prompt import pad


class Reader:
    """Reads every image, equal ones once.

    Args:
        model: the network.
        processor: how the checkpoint sees.
        batch: rows per forward pass.
        crop: fraction of the image's area to look at; None: all.
    """

    def __init__(self, model: OpenVLA, processor: ProcessorConfig, batch: int, crop: float | None) -> None:
        self.model, self.processor, self.batch, self.crop = model, processor, batch, crop

    def read(self, images: Tensor, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Context]]:
        """Yield rows [K] and their context; together, all rows once.

        Args:
            images: uint8 [N, H, W, 3].
            prompts: N prompts as token ids.
        """
        first, which = distinct(images)
        some = self.prepare(images[first])
        visual = torch.cat([self.model.see(processing.normalize(part, self.processor)) for part in some.split(self.batch)])
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of a batch are padded little
        for rows in torch.tensor(order, device=images.device).split(self.batch):
            ids, mask = pad([prompts[i] for i in rows.tolist()], self.model.config.pad_token_id)
            yield rows, prefill(self.model, visual[which[rows]], ids.to(images.device), mask.to(images.device))

    def prepare(self, images: Tensor) -> Tensor:
        """Crop and resize: uint8 [N, H, W, 3] -> uint8 [N, S, S, 3]."""
        return processing.resize(images if self.crop is None else processing.crop_area(images, self.crop), self.processor)

    def forget(self, mask: Tensor) -> None:
        """Forget what is remembered of environments where mask [N] is True."""


class CachedReader(Reader):
    """Reads what changed: row i is environment i in every call, through a camera that stands still.

    Args:
        model: the network.
        processor: how the checkpoint sees.
        batch: rows per forward pass.
        crop: fraction of the image's area to look at; None: all.
        bos: id of the token that every prompt begins with.
        eps: see `VisualTokenCache`.
    """

    def __init__(
        self, model: OpenVLA, processor: ProcessorConfig, batch: int, crop: float | None, bos: int, eps: float
    ) -> None:
        super().__init__(model, processor, batch, crop)
        self.bos, self.eps = bos, eps
        self.caches: list[VisualTokenCache] = []  # one per batch: copying what is remembered stays cheap

    def read(self, images: Tensor, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Context]]:
        """See `Reader.read`; rows keep their order."""
        for i, rows in enumerate(torch.arange(len(images), device=images.device).split(self.batch)):
            if i == len(self.caches):
                self.caches.append(VisualTokenCache(self.model, self.bos, self.eps))
            some = self.prepare(images[rows])
            prefix = self.caches[i](some, processing.normalize(some, self.processor).to(self.model.dtype))
            ids, mask = pad([prompts[j] for j in rows.tolist()], self.model.config.pad_token_id)
            yield rows, prefill_text(self.model, prefix, ids.to(images.device), mask.to(images.device))

    def forget(self, mask: Tensor) -> None:
        """See `Reader.forget`."""
        for cache, part in zip(self.caches, mask.split(self.batch), strict=False):
            cache.forget(part)


def distinct(images: Tensor) -> tuple[Tensor, Tensor]:
    """Find equal images: indices [U] of the first of each kind, and the kind [N] of each image [N, ...]."""
    kinds: dict[bytes, int] = {}
    which = [kinds.setdefault(image.tobytes(), len(kinds)) for image in images.cpu().numpy()]
    first = [which.index(kind) for kind in range(len(kinds))]
    return torch.tensor(first, device=images.device), torch.tensor(which, device=images.device)
