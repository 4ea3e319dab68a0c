"""Image augmentation of the observations that a student's losses read.

Shifted and recolored images show the same scene, so the labels of a teacher, of demonstrations or of the simulator stay valid
for them, and losses on labels use the augmented images directly. PPO's surrogate cannot: its ratio pi(a | o) / pi_old(a | o)
compares two policies on one observation. With an augmented batch, pi(a | f(o)) / pi_old(a | o) is not 1 before the first step,
so it clips samples at random and misweights the others. DrQ (arXiv 2004.13649), the source of the shifts, has no ratio; RAD
(arXiv 2004.14990) also acts on augmented images; ManiSkill's PPO does not augment. DrAC (arXiv 2006.12862) keeps the surrogate
and the value loss on the original images, and adds a loss that makes the outputs for both agree: `consistency`.
Rollouts and evaluations use the original images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.students.actor_critic import ActorCritic, Outputs

PAD = 4
"""Largest shift of an image, pixels (DrQ)."""
STRENGTH = 0.2
"""Brightness, contrast and saturation are multiplied by 1 - STRENGTH to 1 + STRENGTH, as in the training of Octo and OpenVLA.
Hues do not change, because instructions name colors."""
CONSISTENCY = 0.1
"""Weight of `consistency` (DrAC's alpha_r)."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""


class Augmentation:
    """Draws an independent augmentation for each image.

    Args:
        kinds: see `StudentConfig.augment`.
        cameras: keys of the images.
        generator: random generator on the images' device.
    """

    def __init__(self, kinds: Sequence[str], cameras: Sequence[str], generator: torch.Generator) -> None:
        self.kinds, self.cameras, self.generator = frozenset(kinds), cameras, generator

    def __call__(self, obs: TensorDict) -> TensorDict:
        """Return observations [N] with augmented images; the input is not modified."""
        augmented = cast("TensorDict", obs.copy())
        for key in self.cameras:
            images = augmented[key]
            draw = {"generator": self.generator, "device": images.device}
            if "shift" in self.kinds:
                images = shift(images, torch.randint(-PAD, PAD + 1, (len(images), 2), **draw))
            if "color" in self.kinds:
                images = color(images, 1 + STRENGTH * (2 * torch.rand(len(images), 3, **draw) - 1))
            augmented[key] = images
        return augmented


def augmentation(policy: ActorCritic, generator: torch.Generator) -> Augmentation | None:
    """Build the augmentation that a policy's configuration asks for, or None."""
    return Augmentation(policy.config.augment, policy.spec.cameras, generator) if policy.config.augment else None


def shift(images: Tensor, offset: Tensor) -> Tensor:
    """Shift each image by an offset; pixels beyond the border repeat the outermost ones.

    Equivalent to DrQ's padding by the border and cropping, in one gather.

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
        images: uint8 [N, H, W, 3 K]: K frames, all changed alike.
        factor: [N, 3] of brightness, contrast, saturation; 1 changes nothing.
    """
    x = images.unflatten(-1, (-1, 3)).float()  # [N, H, W, K, 3]
    b, c, s = factor.view(-1, 1, 1, 1, 1, 3).unbind(-1)
    grey = (x @ x.new_tensor(LUMA))[..., None]
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    # b x, then c (b x) + (1 - c) b mean, then s times that + (1 - s) times its gray value
    x = x.mul_(s * c * b).add_((1 - c) * b * mean + (1 - s) * c * b * grey)
    return x.round_().clamp_(0, 255).to(torch.uint8).flatten(-2)


def consistency(outputs: Outputs, augmented: Outputs, values: bool) -> Tensor:
    """KL(pi(o) || pi(f(o))) + 1/2 (V(o) - V(f(o)))², DrAC (arXiv 2006.12862), in closed form.

    The outputs for the original images are the target and get no gradient.

    Args:
        outputs: for the original observations [M].
        augmented: for the augmented observations [M].
        values: whether the critic is trained.
    """
    loss = outputs.distribution.detach().kl(augmented.distribution).mean()
    return loss + 0.5 * (outputs.value.detach() - augmented.value).square().mean() if values else loss
