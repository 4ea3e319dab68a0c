"""A visual-token cache for static cameras: patches that did not change keep their tokens, and cost nothing.

The idea of VLA-Cache (Xu et al., 2025, arXiv 2502.02175), for whole batches and in both halves of the model. In the vision
backbones and in the language model, only the tokens of changed patches are computed; they attend to the remembered keys
and values of all others. What the language model remembers is that of [BOS] [patches], which no prompt changes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.openvla.model import DynamicCache, OpenVLA
from teachers.openvla.vision import KeyValue, Memory

MOST = 0.5
"""Fraction of changed patches above which an image is computed anew: little would be gained, and the rest is out of date."""


class VisualTokenCache:
    """What N images became, one per environment, from call to call of the same camera.

    A token depends on others, so what is kept is out of date by as much as the changed patches say about it. With `eps` = 0
    nothing is approximated: an image keeps its tokens where none of its pixels changed, and is computed anew where one did.

    Args:
        model: the network.
        bos: id of the token that every prompt begins with.
        eps: largest change of any pixel, of its range, at which a patch counts as unchanged.

    Attributes:
        computed: patches that were computed so far, of `asked`.
    """

    def __init__(self, model: OpenVLA, bos: int, eps: float) -> None:
        self.model, self.bos, self.eps = model, bos, eps
        self.computed, self.asked = 0, 0
        self._images = torch.empty(0)  # [N, S, S, 3] uint8, each patch as it was when its token was computed
        self._known = torch.empty(0)  # [N] bool
        self._eyes: list[Memory] = []  # one per backbone
        self._prefix: list[KeyValue] = []  # one per layer of the language model: [N, heads, 1 + P, width / heads]

    def forget(self, mask: Tensor) -> None:
        """Compute the images of environments where mask [N] is True anew: another episode is another scene.

        Of another number of environments, nothing can be said but that all is forgotten.
        """
        self._known = self._known & ~mask if mask.shape == self._known.shape else torch.zeros_like(self._known)

    def __call__(self, images: Tensor, pixels: Tensor) -> list[KeyValue]:
        """Return the language model's keys and values of [BOS] [patches], per layer.

        Args:
            images: uint8 [N, S, S, 3].
            pixels: [N, 3 * backbones, S, S], the same images normalised.
        """
        everything = torch.arange(len(images), device=images.device)
        if images.shape != self._images.shape:
            self._images = images
            self._compute(everything, images, pixels, None)
        else:
            change = self._change(images)  # [N, P]
            changed = change > self.eps
            anew = ~self._known | (changed.float().mean(-1) > (MOST if self.eps > 0 else 0))
            part = ~anew & changed.any(-1)
            if anew.any():
                self._compute(everything[anew], images, pixels, None)
            if part.any():
                # As many patches in each row as in the one with the most: the others get their next most changed too.
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
        """Compute the images of `rows`, or only their `patches` [rows, K], and remember them."""
        features, eyes = [], []
        for i, (vit, part) in enumerate(zip(self.model.vision_backbone.vits, pixels[rows].split(3, 1), strict=True)):
            before = None if patches is None else _take(self._eyes[i], rows)
            now = vit.run(part, before, patches)
            eyes.append(now)
            features.append(_at(now.tokens[:, vit.config.prefix :], patches))
        visual = self.model.projector(torch.cat(features, -1))
        prefix = self._read(visual, patches, rows)
        if len(rows) == len(images):
            self._eyes, self._prefix = eyes, prefix
        else:  # copies: what was made in inference mode may not be written to outside of it
            self._eyes = [_put(old, rows, new) for old, new in zip(self._eyes, eyes, strict=True)]
            self._prefix = [_put_pair(old, rows, new) for old, new in zip(self._prefix, prefix, strict=True)]
        seen = images[rows] if patches is None else torch.where(self._pixels(patches), images[rows], self._images[rows])
        self._images = self._images.index_copy(0, rows, seen)
        self.computed += len(rows) * (self._patches if patches is None else patches.shape[1])

    def _read(self, visual: Tensor, patches: Tensor | None, rows: Tensor) -> list[KeyValue]:
        """The language model's keys and values of [BOS] [patches], where visual tokens [rows, K, hidden] are new."""
        n, length = len(visual), 1 + self._patches
        if patches is None:
            bos = self.model.embed(torch.full((n, 1), self.bos, device=visual.device))
            cache = DynamicCache(config=self.model.language_model.config)
            places = torch.arange(length, device=visual.device).expand(n, -1)
            self.model.read(torch.cat([bos, visual], 1), None, places, cache)
            return [(layer.keys, layer.values) for layer in cast("list[Any]", cache.layers)]
        places = patches + 1
        sees = torch.arange(length, device=visual.device) <= places[:, :, None]  # [rows, K, 1 + P]: all before, and itself
        mask = torch.zeros(sees.shape, dtype=visual.dtype, device=visual.device)
        mask = mask.masked_fill(~sees, torch.finfo(visual.dtype).min)[:, None]
        cache = Overwriting([(k[rows], v[rows]) for k, v in self._prefix], places)
        self.model.read(visual, mask, places, cache)
        return cache.memory

    def _change(self, images: Tensor) -> Tensor:
        """Largest change of any pixel of each patch [N, P], of its range."""
        difference = (images.int() - self._images.int()).abs().amax(-1).float() / 255  # [N, S, S]
        return F.max_pool2d(difference[:, None], self._patch).flatten(1)

    def _pixels(self, patches: Tensor) -> Tensor:
        """Spread patches [N, K] over their pixels: a mask [N, S, S, 1]."""
        size, side = self._images.shape[1], self._images.shape[1] // self._patch
        mask = torch.zeros(len(patches), side * side, dtype=torch.bool, device=patches.device).scatter(1, patches, True)
        mask = mask.view(-1, side, side).repeat_interleave(self._patch, 1).repeat_interleave(self._patch, 2)
        rest = size - side * self._patch  # pixels that no patch covers
        return F.pad(mask, (0, rest, 0, rest))[..., None]


class Overwriting(DynamicCache):
    """Keys and values of a whole sequence, of which those at `places` [N, K] are computed again."""

    def __init__(self, memory: list[KeyValue], places: Tensor) -> None:
        super().__init__()
        self.memory, self.places = memory, places

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> KeyValue:
        """Put a layer's new keys and values in their places, and return all of them."""
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
