"""Octo as a network: image stems, a T5 encoder, one block-wise transformer over all tokens, and an action head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from envs.errors import ConfigError
from teachers.octo.config import OctoConfig
from teachers.octo.heads import build_head
from teachers.octo.masks import Layout, attention_mask
from teachers.octo.transformer import Transformer
from teachers.octo.vision import SmallStem, stack

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class Observation(NamedTuple):
    """What was seen in the last W time steps, the newest last."""

    images: Mapping[str, Tensor]
    """uint8 [B, W, H, H, 3] by the checkpoint's names, e.g. image_primary; a camera that is left out has no tokens."""
    valid: Tensor
    """[B, W] bool: steps that happened; the others pad the beginning of an episode."""
    images_valid: Mapping[str, Tensor] = {}
    """[B, W] bool by camera: images that there are; default: all."""


class Task(NamedTuple):
    """What is to be done: said, shown, or both."""

    language: Tensor
    """[B, L, T5 width] from `Octo.embed_text`."""
    told: Tensor
    """[B] bool: whether there is an instruction."""
    goals: Mapping[str, Tensor] = {}
    """uint8 [B, H, H, 3] by the name of the camera; default: none."""


class Octo(nn.Module):
    """The network of a configuration; `teachers.octo.weights` fills it.

    Args:
        config: its parts.
        t5: the encoder of instructions.
        images: channels and tokens of an image, by tokenizer; a tokenizer that is not named does not exist.
    """

    def __init__(self, config: OctoConfig, t5: T5EncoderModel, images: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.config, self.t5 = config, t5
        self.tokenizers = {name: tokenizer for name, tokenizer in config.images.items() if name in images}
        self.stems = nn.ModuleDict({name: SmallStem(config.stems[name], images[name][0]) for name in self.tokenizers})
        width, horizon = config.width, config.max_horizon
        sizes = {f"obs_{name}": (config.stems[name].num_features, images[name][1]) for name in self.tokenizers}
        self.projections = nn.ModuleDict({name: nn.Linear(n, width) for name, (n, _) in sizes.items()})
        self.projections["task_language"] = nn.Linear(t5.config.d_model, width)
        tables = {name: (1, horizon, n, width) for name, (_, n) in sizes.items()}
        tables |= {f"readout_{name}": (1, horizon, n, width) for name, n in config.readouts.items()}
        self.positions = nn.ParameterDict({name: torch.randn(*shape) * 0.02 for name, shape in tables.items()})
        self.positions["task_language"] = nn.Parameter(torch.randn(1, config.max_tokens, width) * 0.02)
        t = config.transformer
        self.transformer = Transformer(width, t.num_layers, t.num_attention_heads, t.mlp_dim)
        self.head = build_head(config.head, width)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.positions["task_language"].device

    @property
    def dtype(self) -> torch.dtype:
        """Of all but the head, which computes in float32."""
        return self.positions["task_language"].dtype

    def embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """T5's last hidden state [B, L, T5 width] of token ids [B, L]; T5 does not look where `mask` [B, L] is 0."""
        return self.t5(input_ids=ids, attention_mask=mask).last_hidden_state

    def forward(self, seen: Observation, task: Task) -> dict[str, Tensor]:
        """Look, and run the transformer; see `see` and `read`."""
        return self.read(self.see(seen, task.goals), seen, task)

    def see(self, seen: Observation, goals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens of images with their positions, by tokenizer: [B, W, n, D].

        Raises:
            ConfigError: no image, one of the wrong size, or too many time steps.
        """
        window = seen.valid.shape[1]
        if window > self.config.max_horizon:
            raise ConfigError(f"a window of {window} time steps; this model's horizon is {self.config.max_horizon}")
        shown = {name: keys for name in self.tokenizers if (keys := self.cameras(name, seen.images))}
        if not shown:
            known = ", ".join(key for c in self.tokenizers.values() for key in c.obs_stack_keys)
            raise ConfigError(f"none of the images {', '.join(seen.images) or '(there are none)'} is one that it sees: {known}")
        return {name: self._see(name, keys, seen, goals) for name, keys in shown.items()}

    def read(self, visual: Mapping[str, Tensor], seen: Observation, task: Task) -> dict[str, Tensor]:
        """Run the transformer over what `see` returned.

        Returns:
            Output tokens by group: ``task_language`` [B, L, D], and ``obs_<tokenizer>``, ``obs_task_language`` and
            ``readout_<name>`` [B, W, n, D].
        """
        tokens, valid, layout = self.assemble(visual, seen, task)
        out = self.transformer(tokens, attention_mask(layout, valid, tokens.dtype))
        groups = {"task_language": out[:, : layout.prefix]}
        steps = out[:, layout.prefix :].unflatten(1, (layout.window, -1))
        names, sizes = zip(*layout.step, strict=True)
        return groups | dict(zip(names, steps.split(sizes, 2), strict=True))

    def readout(self, seen: Observation, task: Task) -> Tensor:
        """What the head reads: float32 [B, n, D] of the last time step; see `forward`."""
        return self(seen, task)[self.config.head.readout_key][:, -1].float()

    def assemble(self, visual: Mapping[str, Tensor], seen: Observation, task: Task) -> tuple[Tensor, Tensor, Layout]:
        """Tokens with their positions [B, N, D], which of them may be looked at [B, N], and their order."""
        rows, window = seen.valid.shape
        language = self.projections["task_language"](task.language.to(self.dtype))
        prefix = language + self.positions["task_language"][:, : language.shape[1]]
        told = task.told.bool()[:, None].expand(-1, prefix.shape[1])
        steps: dict[str, tuple[Tensor, Tensor]] = {}  # tokens [B, W, n, D], valid [B, W, n]
        for name, tokens in visual.items():
            valid = _valid(self.cameras(name, seen.images), seen)
            steps[f"obs_{name}"] = tokens, valid[..., None].expand(tokens.shape[:3])
        if self.config.repeat_task_tokens:
            each = prefix[:, None].expand(-1, window, -1, -1)
            steps["obs_task_language"] = each, told[:, None].expand(each.shape[:3])
        for name, n in self.config.readouts.items():
            table = self.positions[f"readout_{name}"][:, :window].expand(rows, -1, -1, -1)
            steps[f"readout_{name}"] = table, seen.valid.new_ones(rows, window, n, dtype=torch.bool)
        tokens = torch.cat([prefix, torch.cat([t for t, _ in steps.values()], 2).flatten(1, 2)], 1)
        visible = torch.cat([told, torch.cat([v for _, v in steps.values()], 2).flatten(1)], 1)
        step = tuple((name, t.shape[2]) for name, (t, _) in steps.items())
        readouts = frozenset(f"readout_{name}" for name in self.config.readouts)
        return tokens, visible, Layout(prefix.shape[1], step, window, readouts)

    def cameras(self, tokenizer: str, names: Mapping[str, Tensor]) -> list[str]:
        """The images that a tokenizer sees, of those that there are, in the order of its channels."""
        patterns = self.tokenizers[tokenizer].obs_stack_keys
        return [key for pattern in patterns for key in sorted(names) if re.match(pattern, key)]

    def _see(self, name: str, keys: list[str], seen: Observation, goals: Mapping[str, Tensor]) -> Tensor:
        """Tokens of one tokenizer with their positions [B, W, n, D]."""
        rows, window = seen.valid.shape
        table, stem = self.positions[f"obs_{name}"], cast("SmallStem", self.stems[name])
        for key in keys:
            height, width = seen.images[key].shape[2:4]
            if height // 16 * (width // 16) != table.shape[2] or height % 16 or width % 16:
                side = 16 * round(table.shape[2] ** 0.5)
                raise ConfigError(f"{key} is {height} x {width} pixels; this model sees {side} x {side}")
            if key in goals and goals[key].shape[1:3] != (height, width):
                raise ConfigError(f"the goal for {key} is {list(goals[key].shape[1:3])} pixels, the image {[height, width]}")
        shown = [key for p in self.tokenizers[name].task_stack_keys for key in keys if re.match(p, key)]
        image = stack([seen.images[key] for key in keys], [goals.get(key) for key in shown])
        if image.shape[-1] != stem.inputs:
            raise ConfigError(f"tokenizer {name} is shown {', '.join(keys)}; it needs {stem.inputs} channels")
        tokens = self.projections[f"obs_{name}"](stem(image)).unflatten(0, (rows, window))
        return tokens + table[:, :window]


def _valid(keys: list[str], seen: Observation) -> Tensor:
    """Whether any of some cameras has an image of a step that happened: [B, W]."""
    there = [seen.images_valid.get(key, torch.ones_like(seen.valid)).bool() for key in keys]
    return torch.stack(there).any(0) & seen.valid.bool()
