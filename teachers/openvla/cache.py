"""Visual-token cache for static cameras: unchanged patches keep their tokens and need no computation.

Follows VLA-Cache (Xu et al., 2025, arXiv 2502.02175), for batches and in both halves of the model. In the vision backbones and
in the language model, only tokens of changed patches are computed; they attend to the cached keys and values of all others. The
language model's cache covers [BOS] [patches], which does not depend on the prompt.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from rpd.teachers.openvla.model import DynamicCache, OpenVLA
from rpd.teachers.openvla.vision import KeyValue, Memory

MAX_CHANGED = 0.5
"""Fraction of changed patches above which an image is recomputed completely: the cache would save little and be outdated."""


class VisualTokenCache:
    """Cached computations for N images, one per environment, between calls with images of the same camera.

    Tokens depend on other tokens, so cached ones are outdated by the influence of changed patches. With `eps` = 0 there is no
    approximation: an image keeps its tokens if none of its pixels changed, and is recomputed completely otherwise.

    Args:
        model: the network.
        bos: id of the first token of every prompt.
        eps: largest change of a pixel, relative to its range, at which a patch counts as unchanged.

    Attributes:
        computed: number of patches computed so far, out of `asked`.
    """

    def __init__(self, model: OpenVLA, bos: int, eps: float) -> None:
        self.model, self.bos, self.eps = model, bos, eps
        self.computed, self.asked = 0, 0
        self._images = torch.empty(0)  # [N, S, S, 3] uint8, each patch as of the computation of its token
        self._known = torch.empty(0)  # [N] bool
        self._vision_memory: list[Memory] = []  # one per backbone
        self._prefix: list[KeyValue] = []  # one per layer of the language model: [N, heads, 1 + P, width / heads]

    def reset(self, mask: Tensor) -> None:
        """Recompute the images of environments where mask [N] is True: a new episode has a new scene.

        If the number of environments changed, clear the cache.
        """
        self._known = self._known & ~mask if mask.shape == self._known.shape else torch.zeros_like(self._known)

    def __call__(self, images: Tensor, pixels: Tensor) -> list[KeyValue]:
        """Return the language model's keys and values of [BOS] [patches], per layer.

        Args:
            images: uint8 [N, S, S, 3].
            pixels: [N, 3 * backbones, S, S], the same images normalized.
        """
        everything = torch.arange(len(images), device=images.device)
        if images.shape != self._images.shape:
            self._images = images
            self._compute(everything, images, pixels, None)
        else:
            change = self._change(images)  # [N, P]
            changed = change > self.eps
            whole = ~self._known | (changed.float().mean(-1) > (MAX_CHANGED if self.eps > 0 else 0))
            part = ~whole & changed.any(-1)
            if whole.any():
                self._compute(everything[whole], images, pixels, None)
            if part.any():
                # The same number of patches in all rows: rows with fewer changed ones add their next most changed.
                most = int(changed[part].sum(-1).max())
                self._compute(everything[part], images, pixels, change[part].topk(most, -1).indices)
        self._known = torch.ones(len(images), dtype=torch.bool, device=images.device)
        self.asked += len(images) * self._patches
        return self._prefix

    @property
    def _patches(self) -> int:
        return self.model.config.num_patches

    @property
    def _patch(self) -> int:
        return self.model.vision_backbone.vits[0].config.patch

    def _compute(self, rows: Tensor, images: Tensor, pixels: Tensor, patches: Tensor | None) -> None:
        """Compute and cache the images of `rows`, or only their `patches` [rows, K]."""
        features, vision_memory = [], []
        for i, (vit, part) in enumerate(zip(self.model.vision_backbone.vits, pixels[rows].split(3, 1), strict=True)):
            before = None if patches is None else _take(self._vision_memory[i], rows)
            now = vit.run(part, before, patches)
            vision_memory.append(now)
            features.append(_at(now.tokens[:, vit.config.prefix :], patches))
        visual = self.model.projector(torch.cat(features, -1))
        prefix = self._read(visual, patches, rows)
        if len(rows) == len(images):
            self._vision_memory, self._prefix = vision_memory, prefix
        else:  # copies: tensors created in inference mode cannot be modified outside of it
            self._vision_memory = [_put(old, rows, new) for old, new in zip(self._vision_memory, vision_memory, strict=True)]
            self._prefix = [_put_pair(old, rows, new) for old, new in zip(self._prefix, prefix, strict=True)]
        seen = images[rows] if patches is None else torch.where(self._pixels(patches), images[rows], self._images[rows])
        self._images = self._images.index_copy(0, rows, seen)
        self.computed += len(rows) * (self._patches if patches is None else patches.shape[1])

    def _read(self, visual: Tensor, patches: Tensor | None, rows: Tensor) -> list[KeyValue]:
        """Language model's keys and values of [BOS] [patches], with new visual tokens [rows, K, hidden]."""
        n, length = len(visual), 1 + self._patches
        if patches is None:
            bos = self.model.embed(torch.full((n, 1), self.bos, device=visual.device))
            cache = DynamicCache(config=self.model.language_model.config)
            places = torch.arange(length, device=visual.device).expand(n, -1)
            self.model.run_transformer(torch.cat([bos, visual], 1), None, places, cache)
            return [(layer.keys, layer.values) for layer in cast("list[Any]", cache.layers)]
        places = patches + 1
        sees = torch.arange(length, device=visual.device) <= places[:, :, None]  # [rows, K, 1 + P]: causal mask
        mask = torch.zeros(sees.shape, dtype=visual.dtype, device=visual.device)
        mask = mask.masked_fill(~sees, torch.finfo(visual.dtype).min)[:, None]
        cache = Overwriting([(k[rows], v[rows]) for k, v in self._prefix], places)
        self.model.run_transformer(visual, mask, places, cache)
        return cache.memory

    def _change(self, images: Tensor) -> Tensor:
        """Largest change of a pixel in each patch [N, P], relative to its range."""
        difference = (images.int() - self._images.int()).abs().amax(-1).float() / 255  # [N, S, S]
        return F.max_pool2d(difference[:, None], self._patch).flatten(1)

    def _pixels(self, patches: Tensor) -> Tensor:
        """Expand patches [N, K] to a pixel mask [N, S, S, 1]."""
        size, side = self._images.shape[1], self._images.shape[1] // self._patch
        mask = torch.zeros(len(patches), side * side, dtype=torch.bool, device=patches.device).scatter(1, patches, True)
        mask = mask.view(-1, side, side).repeat_interleave(self._patch, 1).repeat_interleave(self._patch, 2)
        rest = size - side * self._patch  # pixels outside of all patches
        return F.pad(mask, (0, rest, 0, rest))[..., None]


class Overwriting(DynamicCache):
    """Keys and values of a whole sequence, in which those at `places` [N, K] are overwritten."""

    def __init__(self, memory: list[KeyValue], places: Tensor) -> None:
        super().__init__()
        self.memory, self.places = memory, places

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> KeyValue:
        """Write a layer's new keys and values to their places, and return all of them."""
        at = self.places[:, None, :, None].expand_as(key_states)
        keys, values = self.memory[layer_idx]
        self.memory[layer_idx] = keys.scatter(2, at, key_states), values.scatter(2, at, value_states)
        return self.memory[layer_idx]


def _at(tokens: Tensor, patches: Tensor | None) -> Tensor:
    """Tokens [N, P, width] at patches [N, K]; None: all."""
    return tokens if patches is None else tokens.gather(1, patches[:, :, None].expand(-1, -1, tokens.shape[2]))


def _take(memory: Memory, rows: Tensor) -> Memory:
    return Memory([(k[rows], v[rows]) for k, v in memory.blocks], memory.tokens[rows])


def _put(memory: Memory, rows: Tensor, new: Memory) -> Memory:
    blocks = [_put_pair(old, rows, fresh) for old, fresh in zip(memory.blocks, new.blocks, strict=True)]
    return Memory(blocks, memory.tokens.index_copy(0, rows, new.tokens))


def _put_pair(old: KeyValue, rows: Tensor, new: KeyValue) -> KeyValue:
    return old[0].index_copy(0, rows, new[0]), old[1].index_copy(0, rows, new[1])
