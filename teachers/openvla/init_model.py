"""Create an untrained OpenVLA of any size: configuration, processor and a tokenizer for its instructions.

Llama's 32,000 tokens would take most of a small model's parameters, so new models have their own vocabulary. Its ids differ
from Llama's: this package reads them from tokenizer.json, the original code does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rpd.teachers.openvla.checkpoint import Checkpoint
from rpd.teachers.openvla.config import Normalize, OpenVLAConfig, ProcessorConfig, TinyViT
from rpd.teachers.openvla.prompt import BOS, TEMPLATE, TOKENIZER
from rpd.teachers.vla import tokenizer as tokenization

UNK, EOS, PAD = "<unk>", "</s>", "<PAD>"
IMAGENET = Normalize(mean=(0.484375, 0.455078125, 0.40625), std=(0.228515625, 0.2236328125, 0.224609375))
"""Normalization of DINOv2 backbones, rounded to bfloat16 as in the official checkpoints."""
HALF = Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Normalization of SigLIP backbones."""
PADDING_ROWS = 64


def new_checkpoint(
    name: str,
    instructions: Iterable[str],
    statistics: Mapping[str, Any],
    image_size: int,
    vits: Sequence[TinyViT],
    llama: Mapping[str, Any],
    bins: int = 256,
    files: Mapping[str, bytes] | None = None,
) -> Checkpoint:
    """Create the files of a new model. `model.OpenVLA(checkpoint.config)` builds its network; `weights.save` writes both.

    Args:
        name: name for messages.
        instructions: instructions for the vocabulary; other text is tokenized to bytes.
        statistics: action statistics by data set, as in dataset_statistics.json: ``{key: {"action": {"q01", "q99", "mask"}}}``.
        image_size: input height and width, pixels; a multiple of the patch size.
        vits: one vision backbone, or two fused ones. Backbones with registers are normalized like DINOv2, others like SigLIP.
        llama: transformers' LlamaConfig, without the vocabulary: hidden_size, num_hidden_layers, ...
        bins: action tokens per dimension.
        files: additional small files of the checkpoint, e.g. an action_mapping.yaml.
    """
    content = build_tokenizer(instructions, bins)
    vocab = len(json.loads(content)["model"]["vocab"])
    config = OpenVLAConfig(
        timm_model_ids=[f"vit_{vit.embed_dim}x{vit.depth}" for vit in vits],
        timm_override_act_layers=[None] * len(vits),
        image_sizes=[image_size] * len(vits),
        use_fused_vision_backbone=len(vits) == 2,
        text_config={**llama, "model_type": "llama", "vocab_size": vocab + PADDING_ROWS, "pad_token_id": vocab},
        llm_backbone_id="llama",
        llm_max_length=llama.get("max_position_embeddings", 2048),
        pad_token_id=vocab,
        pad_to_multiple_of=PADDING_ROWS,
        n_action_bins=bins,
        tiny_vit_kwargs=list(vits),
    )
    config.check()
    processor = ProcessorConfig.of(config, [IMAGENET if vit.reg_tokens else HALF for vit in vits])
    kept = {TOKENIZER: content, "tokenizer_config.json": _tokenizer_config(), **(files or {})}
    return Checkpoint(name, config, processor, dict(statistics), kept)


def build_tokenizer(instructions: Iterable[str], bins: int = 256, pieces: int = 1000) -> bytes:
    """Build a Llama-like tokenizer.json from instructions: byte-pair pieces of whole prompts, with byte fallback.

    Ids: the special tokens, 256 bytes, the pieces, and the action tokens at the end.

    Args:
        instructions: training texts; their words are seldom more than one token.
        bins: number of action tokens.
        pieces: maximum number of pieces.

    Raises:
        ConfigError: tokenizers is not installed.
    """
    prompts = [TEMPLATE.format(text.lower()).replace("\n", "") for text in instructions]
    actions = [f"<action_{i}>" for i in reversed(range(bins))]
    tokenizer = tokenization.build(prompts, (UNK, BOS, EOS), UNK, actions, pieces)
    from tokenizers import processors

    vocab = tokenizer.get_vocab()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])])
    tokenizer.add_special_tokens([PAD])  # <PAD> gets the first id after the vocabulary
    return tokenizer.to_str(pretty=True).encode()


def _tokenizer_config() -> bytes:
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "add_eos_token": False, "unk_token": UNK,
        "bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "padding_side": "right", "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    return (json.dumps(values, indent=2) + "\n").encode()
