"""OpenVLA's network: vision backbones, a projector, and a Llama over [BOS] [patches] [prompt] with action tokens as output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpd.envs.errors import missing_package
from rpd.teachers.openvla.config import OpenVLAConfig
from rpd.teachers.openvla.vision import VisionBackbone

try:
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
except ImportError:
    raise missing_package("teacher openvla", "transformers", "vla") from None


class Projector(nn.Module):
    """Projects visual features to the language model's embeddings: two layers for one backbone, three for two."""

    def __init__(self, width: int, hidden: int, fused: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width if fused else hidden)
        self.fc2 = nn.Linear(4 * width if fused else hidden, hidden)
        if fused:
            self.fc3 = nn.Linear(hidden, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """[N, P, width] -> [N, P, hidden]."""
        x = self.fc2(F.gelu(self.fc1(features)))
        return self.fc3(F.gelu(x)) if hasattr(self, "fc3") else x


class OpenVLA(nn.Module):
    """The network of a configuration, with random weights; `rpd.teachers.openvla.weights` loads them."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        llama = LlamaConfig(**config.llama.arguments())
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(self.vision_backbone.width, llama.hidden_size, config.use_fused_vision_backbone)
        self.language_model = LlamaForCausalLM(llama)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.projector.fc1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return self.projector.fc1.weight.dtype

    @property
    def num_parameters(self) -> int:
        """Number of parameters used in inference."""
        return sum(p.numel() for p in self.parameters())

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Visual tokens of images: [N, 3 * backbones, S, S] -> [N, P, hidden]."""
        return self.projector(self.vision_backbone(pixels.to(self.dtype)))

    def run_transformer(
        self, embeddings: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache | None = None
    ) -> Tensor:
        """Run the language model's blocks.

        Args:
            embeddings: [N, K, hidden] of the tokens after the cached ones.
            mask: [N, all so far] bool, False at padding; None: no padding. Or a complete additive mask [N, 1, K, all so far].
            positions: [N, K] of each token in its row, without padding.
            cache: keys and values of the previous tokens; extended in place.

        Returns:
            [N, K, hidden] after the final norm.
        """
        output = self.language_model.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=cache is not None,
        )  # fmt: skip
        return output.last_hidden_state

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens: [..., ] -> [..., hidden]."""
        return self.language_model.model.embed_tokens(tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary and its padding rows, float32: [..., hidden] -> [..., V + padding]."""
        return self.language_model.lm_head(hidden).float()

    @property
    def action_tokens(self) -> slice:
        """Ids of the action tokens, in descending order of actions."""
        return slice(self.config.vocab - self.config.n_action_bins, self.config.vocab)

    def action_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the action tokens only, float32: [..., hidden] -> [..., bins]."""
        return F.linear(hidden, self.language_model.lm_head.weight[self.action_tokens]).float()

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, actions: Tensor) -> Tensor:
        """Predict each action token from the image, the prompt and the previous action tokens; used in training.

        Args:
            pixels: [N, 3 * backbones, S, S], see `processing.normalize`.
            input_ids: [N, L] prompts, padded on either side; see `prompt.pad`.
            attention_mask: [N, L] bool, False at padding.
            actions: [N, D] token ids.

        Returns:
            [N, D, V + padding] logits: entry d is the distribution of ``actions[:, d]``.
        """
        return self.predict(self.encode_images(pixels), input_ids, attention_mask, actions)

    def predict(self, visual: Tensor, input_ids: Tensor, attention_mask: Tensor, actions: Tensor) -> Tensor:
        """Like `forward`, from visual tokens [N, P, hidden]."""
        prompt, mask = interleave(self.embed(input_ids), attention_mask, visual)
        earlier = self.embed(actions[:, :-1])
        mask = torch.cat([mask, mask.new_ones(earlier.shape[:2])], 1)
        hidden = self.run_transformer(torch.cat([prompt, earlier], 1), mask, positions(mask))
        last = last_column(mask[:, : prompt.shape[1]])
        read_out = torch.cat([hidden[torch.arange(len(last)), last][:, None], hidden[:, prompt.shape[1] :]], 1)
        return self.logits(read_out)

    def rebuild_rotary(self, device: torch.device) -> None:
        """Compute the rotary frequencies, which checkpoints lack: on the meta device they would be garbage without an error."""
        self.language_model.model.rotary_emb = LlamaRotaryEmbedding(self.language_model.config).to(device)


def interleave(text: Tensor, mask: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Insert the patches after the first token of each row, for padding on either side.

    Rows are padded here, as embeddings: with left-padded token ids, the patches would follow a pad token.

    Args:
        text: [N, L, hidden] embedded prompts, padded left or right.
        mask: [N, L] bool, False at padding.
        visual: [N, P, hidden].

    Returns:
        [N, L + P, hidden] with zeros at padding, and its mask [N, L + P].
    """
    (n, length, _), patches = text.shape, visual.shape[1]
    column = torch.arange(length + patches, device=text.device).expand(n, -1)
    first = mask.int().argmax(1, keepdim=True)  # first real token of the row
    is_text_before, is_text_after = column <= first, column > first + patches
    source = torch.where(is_text_before, column, torch.where(is_text_after, column - patches, length + column - first - 1))
    padded = torch.cat([mask, mask.new_ones(n, patches)], 1).gather(1, source)
    mixed = torch.cat([text, visual], 1).gather(1, source[:, :, None].expand(-1, -1, text.shape[2]))
    return mixed * padded[:, :, None], padded


def positions(mask: Tensor) -> Tensor:
    """Position of each token in its row, counted without padding: [N, L] bool -> [N, L] int64."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def last_column(mask: Tensor) -> Tensor:
    """Column of the last token of each row: [N, L] bool -> [N]."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
