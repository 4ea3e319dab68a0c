"""Image augmentation: what a student's losses see in place of the images that were collected.

Shifted and recoloured images show the same scene, so whoever is told what to do there (by a teacher, by demonstrations, by the
simulator's truth) is told the same, and learns from them directly. PPO's surrogate may not: its ratio pi(a | o) / pi_old(a | o)
compares two policies in one observation, and pi(a | f(o)) / pi_old(a | o), as one gets by augmenting the batch, is not 1 before
the first step, clips samples at random and weighs the others wrongly. DrQ (arXiv 2004.13649), where the shifts come from, has
no ratio; RAD (arXiv 2004.14990) acts on augmented images too; ManiSkill's PPO augments nothing. DrAC (arXiv 2006.12862) keeps
the surrogate and the value loss on the images that were acted on, and asks the network to say the same of both: `consistency`.
Rollouts and evaluations see the images as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from students.actor_critic import ActorCritic, Outputs

PAD = 4
"""Pixels that an image is shifted by at most (DrQ)."""
STRENGTH = 0.2
"""Brightness, contrast and saturation are multiplied by 1 - STRENGTH to 1 + STRENGTH, as in Octo's and OpenVLA's training; hues
stay, because instructions name them."""
CONSISTENCY = 0.1
"""Weight of `consistency` (DrAC's alpha_r)."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: what red, green and blue add to brightness."""


class Augmentation:
    """Draws another augmentation for every image that it is shown.

    Args:
        kinds: of `StudentConfig.augment`.
        cameras: keys of the images.
        generator: draws, on the images' device.
    """

    def __init__(self, kinds: Sequence[str], cameras: Sequence[str], generator: torch.Generator) -> None:
        self.kinds, self.cameras, self.generator = frozenset(kinds), cameras, generator

    def __call__(self, obs: TensorDict) -> TensorDict:
        """Return observations [N] with other images; those that are given stay as they are."""
        seen = cast("TensorDict", obs.copy())
        for key in self.cameras:
            images = seen[key]
            draw = {"generator": self.generator, "device": images.device}
            if "shift" in self.kinds:
                images = shift(images, torch.randint(-PAD, PAD + 1, (len(images), 2), **draw))
            if "color" in self.kinds:
                images = color(images, 1 + STRENGTH * (2 * torch.rand(len(images), 3, **draw) - 1))
            seen[key] = images
        return seen


def augmentation(policy: ActorCritic, generator: torch.Generator) -> Augmentation | None:
    """Return what a policy's configuration asks for; None: nothing."""
    return Augmentation(policy.config.augment, policy.spec.cameras, generator) if policy.config.augment else None


def shift(images: Tensor, offset: Tensor) -> Tensor:
    """Move the window through which each image is seen; beyond the border, its outermost pixels go on.

    Padding by the border and cropping, as DrQ does it, in one gather.

    Args:
        images: [N, H, W, C].
        offset: [N, 2] int64 pixels down and right; row y of the result is row y + offset of the image.
    """
    n, height, width, channels = images.shape
    y, x = (torch.arange(size, device=images.device) + offset[:, i, None] for i, size in enumerate((height, width)))
    row = torch.arange(n, device=images.device)[:, None] * height + y.clamp(0, height - 1)  # [N, H]
    pixel = row[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]  # [N, H, W]
    return images.reshape(-1, channels).index_select(0, pixel.flatten()).view(images.shape)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in this order, as torchvision's ColorJitter defines them; clipped once.

    Args:
        images: uint8 [N, H, W, 3 K], K pictures that are changed alike.
        factor: [N, 3] of brightness, contrast, saturation; 1 changes nothing.
    """
    x = images.unflatten(-1, (-1, 3)).float()  # [N, H, W, K, 3]
    b, c, s = factor.view(-1, 1, 1, 1, 1, 3).unbind(-1)
    grey = (x @ x.new_tensor(LUMA))[..., None]
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    # b x, then c (b x) + (1 - c) b mean, then s of that + (1 - s) of its grey
    x = x.mul_(s * c * b).add_((1 - c) * b * mean + (1 - s) * c * b * grey)
    return x.round_().clamp_(0, 255).to(torch.uint8).flatten(-2)


def consistency(outputs: Outputs, augmented: Outputs, values: bool) -> Tensor:
    """KL(pi(o) || pi(f(o))) + 1/2 (V(o) - V(f(o)))², of DrAC (arXiv 2006.12862), in closed form.

    What was said of the images as they are is the target and gets no gradient.

    Args:
        outputs: of the observations [M].
        augmented: of the same, augmented.
        values: whether the critic is trained.
    """
    loss = outputs.distribution.detach().kl(augmented.distribution).mean()
    return loss + 0.5 * (outputs.value.detach() - augmented.value).square().mean() if values else loss
