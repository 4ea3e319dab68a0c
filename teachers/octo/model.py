"""Octo's network: image stems, a T5 encoder, one block-wise transformer over all tokens, and an action head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from rpd.envs.errors import ConfigError
from rpd.teachers.octo.build_head import build_head
from rpd.teachers.octo.config import OctoConfig
from rpd.teachers.octo.masks import TokenLayout, attention_mask
from rpd.teachers.octo.transformer import Transformer
from rpd.teachers.octo.vision import SmallStem, stack

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class Observation(NamedTuple):
    """Images of the last W time steps, newest last."""

    images: Mapping[str, Tensor]
    """uint8 [B, W, H, H, 3] by the checkpoint's names, e.g. image_primary; missing cameras have no tokens."""
    valid: Tensor
    """[B, W] bool: real steps; the others pad the beginning of an episode."""
    images_valid: Mapping[str, Tensor] = {}
    """[B, W] bool by camera: existing images; default: all."""


class Task(NamedTuple):
    """Task, as instruction, goal image, or both."""

    language: Tensor
    """[B, L, T5 width] from `Octo.embed_text`."""
    has_instruction: Tensor
    """[B] bool: rows with an instruction."""
    goals: Mapping[str, Tensor] = {}
    """uint8 [B, H, H, 3] by the name of the camera; default: none."""


class Octo(nn.Module):
    """The network of a configuration; `rpd.teachers.octo.weights` loads its weights.

    Args:
        config: the configuration.
        t5: the encoder of instructions.
        images: input channels and tokens of an image, by tokenizer; tokenizers without an entry are left out.
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
        """Device of the parameters."""
        return self.positions["task_language"].device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of everything but the head, which uses float32."""
        return self.positions["task_language"].dtype

    def embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """T5's last hidden state [B, L, T5 width] of token ids [B, L]; positions with `mask` [B, L] 0 are not attended.

        Raises:
            ConfigError: an id without embedding.
        """
        rows = self.t5.config.vocab_size
        if bad := [i for i in ids.unique().tolist() if not 0 <= i < rows]:
            raise ConfigError(f"an instruction has token id {bad[0]}, and the model has {rows} embeddings: another tokenizer?")
        return self.t5(input_ids=ids, attention_mask=mask).last_hidden_state

    def forward(self, seen: Observation, task: Task) -> dict[str, Tensor]:
        """Encode images and run the transformer; see `encode_images` and `run_transformer`."""
        return self.run_transformer(self.encode_images(seen, task.goals), seen, task)

    def encode_images(self, seen: Observation, goals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image tokens with position embeddings, by tokenizer: [B, W, n, D].

        Raises:
            ConfigError: no image, an image of the wrong size, or too many time steps.
        """
        window = seen.valid.shape[1]
        if window > self.config.max_horizon:
            raise ConfigError(f"a window of {window} time steps; this model's horizon is {self.config.max_horizon}")
        shown = {name: keys for name in self.tokenizers if (keys := self.cameras(name, seen.images))}
        if not shown:
            known = ", ".join(key for c in self.tokenizers.values() for key in c.obs_stack_keys)
            raise ConfigError(
                f"none of the images {', '.join(seen.images) or '(there are none)'} is an input of the model: {known}"
            )
        return {name: self._see(name, keys, seen, goals) for name, keys in shown.items()}

    def run_transformer(self, visual: Mapping[str, Tensor], seen: Observation, task: Task) -> dict[str, Tensor]:
        """Run the transformer over the output of `encode_images`.

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
        """Input of the head: float32 [B, n, D] of the last time step; see `forward`."""
        return self(seen, task)[self.config.head.readout_key][:, -1].float()

    def assemble(self, visual: Mapping[str, Tensor], seen: Observation, task: Task) -> tuple[Tensor, Tensor, TokenLayout]:
        """Tokens with position embeddings [B, N, D], mask of valid tokens [B, N], and their layout."""
        rows, window = seen.valid.shape
        language = self.projections["task_language"](task.language.to(self.dtype))
        prefix = language + self.positions["task_language"][:, : language.shape[1]]
        instructed = task.has_instruction.bool()[:, None].expand(-1, prefix.shape[1])
        steps: dict[str, tuple[Tensor, Tensor]] = {}  # tokens [B, W, n, D], valid [B, W, n]
        for name, tokens in visual.items():
            valid = _valid(self.cameras(name, seen.images), seen)
            steps[f"obs_{name}"] = tokens, valid[..., None].expand(tokens.shape[:3])
        if self.config.repeat_task_tokens:
            each = prefix[:, None].expand(-1, window, -1, -1)
            steps["obs_task_language"] = each, instructed[:, None].expand(each.shape[:3])
        for name, n in self.config.readouts.items():
            table = self.positions[f"readout_{name}"][:, :window].expand(rows, -1, -1, -1)
            steps[f"readout_{name}"] = table, seen.valid.new_ones(rows, window, n, dtype=torch.bool)
        tokens = torch.cat([prefix, torch.cat([t for t, _ in steps.values()], 2).flatten(1, 2)], 1)
        visible = torch.cat([instructed, torch.cat([v for _, v in steps.values()], 2).flatten(1)], 1)
        step = tuple((name, t.shape[2]) for name, (t, _) in steps.items())
        readouts = frozenset(f"readout_{name}" for name in self.config.readouts)
        return tokens, visible, TokenLayout(prefix.shape[1], step, window, readouts)

    def cameras(self, tokenizer: str, names: Mapping[str, Tensor]) -> list[str]:
        """Available images of a tokenizer, in the order of its channels."""
        patterns = self.tokenizers[tokenizer].obs_stack_keys
        return [key for pattern in patterns for key in sorted(names) if re.match(pattern, key)]

    def _see(self, name: str, keys: list[str], seen: Observation, goals: Mapping[str, Tensor]) -> Tensor:
        """Tokens of one tokenizer with position embeddings [B, W, n, D]."""
        rows, window = seen.valid.shape
        table, stem = self.positions[f"obs_{name}"], cast("SmallStem", self.stems[name])
        for key in keys:
            height, width = seen.images[key].shape[2:4]
            if height // 16 * (width // 16) != table.shape[2] or height % 16 or width % 16:
                side = 16 * round(table.shape[2] ** 0.5)
                raise ConfigError(f"{key} is {height} x {width} pixels; this model needs {side} x {side}")
            if key in goals and goals[key].shape[1:3] != (height, width):
                raise ConfigError(f"the goal for {key} is {list(goals[key].shape[1:3])} pixels, the image {[height, width]}")
        shown = [key for p in self.tokenizers[name].task_stack_keys for key in keys if re.match(p, key)]
        image = stack([seen.images[key] for key in keys], [goals.get(key) for key in shown])
        if image.shape[-1] != stem.inputs:
            raise ConfigError(f"tokenizer {name} gets {', '.join(keys)}; it needs {stem.inputs} channels")
        tokens = self.projections[f"obs_{name}"](stem(image)).unflatten(0, (rows, window))
        return tokens + table[:, :window]


def _valid(keys: list[str], seen: Observation) -> Tensor:
    """Mask [B, W] of real steps with an image of at least one of the cameras."""
    there = [seen.images_valid.get(key, torch.ones_like(seen.valid)).bool() for key in keys]
    return torch.stack(there).any(0) & seen.valid.bool()
