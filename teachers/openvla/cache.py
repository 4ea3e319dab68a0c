"""A visual-token cache for static cameras: patches that did not change keep their tokens, and cost nothing.

Follows the idea of VLA-Cache (Xu et al., 2025, arXiv 2502.02175), applied inside the vision backbones: only the tokens of
changed patches are computed, attending to the remembered keys and values of all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from teachers.openvla.vision import Memory, VisionBackbone

MOST = 0.5
"""Fraction of changed patches above which an image is computed anew: little would be gained, and the rest is out of date."""


class VisualTokenCache:
    """Features of N images, one per environment and from call to call of the same camera.

    A token depends on every patch, so what is kept is out of date by as much as the changed patches say about it. With
    `eps` = 0 nothing is approximated: an image keeps its tokens where none of its pixels changed, and is computed anew
    where one did.

    Args:
        backbone: the eyes.
        eps: largest change of any pixel, of its range, at which a patch counts as unchanged.

    Attributes:
        computed: patches that were computed so far, of `asked`.
    """

    def __init__(self, backbone: VisionBackbone, eps: float) -> None:
        self.backbone, self.eps = backbone, eps
        self.computed, self.asked = 0, 0
        self._images = torch.empty(0)  # [N, S, S, 3] uint8, each patch as it was when its token was computed
        self._known = torch.empty(0)  # [N] bool
        self._memories: list[Memory] = []
        self._patches = backbone.vits[0].pos_embed.shape[1]

    def forget(self, mask: Tensor) -> None:
        """Compute the images of environments where mask [N] is True anew: another episode is another scene."""
        if mask.shape == self._known.shape:
            self._known = self._known & ~mask

    def __call__(self, images: Tensor, pixels: Tensor) -> Tensor:
        """Return the features [N, P, width] of images uint8 [N, S, S, 3], whose normalised `pixels` are [N, C, S, S]."""
        if images.shape != self._images.shape:
            self._start(images, pixels)
        else:
            change = self._change(images)  # [N, P]
            changed = change > self.eps
            anew = ~self._known | (changed.float().mean(-1) > (MOST if self.eps > 0 else 0))
            part = ~anew & changed.any(-1)
            if anew.any():
                self._compute(anew.nonzero()[:, 0], images, pixels, None)
            if part.any():
                rows = part.nonzero()[:, 0]
                # As many patches in each row as in the one with the most: the others get their next most changed too.
                most = int(changed[rows].sum(-1).max())
                self._compute(rows, images, pixels, change[rows].topk(most, -1).indices)
            self._known = torch.ones_like(self._known)
        self.asked += len(images) * self._patches
        vits = zip(self._memories, self.backbone.vits, strict=True)
        return torch.cat([memory.tokens[:, vit.config.prefix :] for memory, vit in vits], -1)

    def _start(self, images: Tensor, pixels: Tensor) -> None:
        self._images, self._known = images, torch.ones(len(images), dtype=torch.bool, device=images.device)
        self._memories = [vit.run(p) for vit, p in zip(self.backbone.vits, pixels.split(3, 1), strict=True)]
        self.computed += len(images) * self._patches

    def _compute(self, rows: Tensor, images: Tensor, pixels: Tensor, patches: Tensor | None) -> None:
        """Compute the images of `rows`, or only their `patches` [rows, K], and remember them."""
        for i, (vit, part) in enumerate(zip(self.backbone.vits, pixels[rows].split(3, 1), strict=True)):
            old = self._memories[i]
            before = Memory([(k[rows], v[rows]) for k, v in old.blocks], old.tokens[rows]) if patches is not None else None
            new = vit.run(part, before, patches)
            blocks = [
                (_replace(k, rows, new_k), _replace(v, rows, new_v))
                for (k, v), (new_k, new_v) in zip(old.blocks, new.blocks, strict=True)
            ]
            self._memories[i] = Memory(blocks, _replace(old.tokens, rows, new.tokens))
        seen = images[rows]
        if patches is not None:
            fresh = torch.zeros(len(rows), self._patches, dtype=torch.bool, device=images.device).scatter(1, patches, True)
            seen = torch.where(self._pixels(fresh), seen, self._images[rows])
        self._images = _replace(self._images, rows, seen)
        self.computed += len(rows) * (self._patches if patches is None else patches.shape[1])

    def _change(self, images: Tensor) -> Tensor:
        """Largest change of any pixel of each patch [N, P], of its range."""
        patch = self.backbone.vits[0].config.patch
        difference = (images.int() - self._images.int()).abs().amax(-1).float() / 255  # [N, S, S]
        return torch.nn.functional.max_pool2d(difference[:, None], patch).flatten(1)

    def _pixels(self, patches: Tensor) -> Tensor:
        """Spread a mask of patches [N, P] over their pixels [N, S, S, 1]."""
        patch, size = self.backbone.vits[0].config.patch, self._images.shape[1]
        side = size // patch
        mask = patches.view(-1, side, side).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        return torch.nn.functional.pad(mask, (0, size - side * patch, 0, size - side * patch))[..., None]


def _replace(all_rows: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """`all_rows` with some replaced; a copy, because what was made in inference mode may not be written to outside of it."""
    return new if len(rows) == len(all_rows) else all_rows.index_copy(0, rows, new)
