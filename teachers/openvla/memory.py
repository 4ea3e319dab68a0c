"""Memory estimate of an OpenVLA teacher, from its configuration; reads no weights."""

from __future__ import annotations

import torch

from rpd.envs.specs import EnvSpec
from rpd.teachers.base import Footprint
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.setup import Setup
from rpd.teachers.openvla.teacher import precision

PROMPT = 32
"""Approximate number of instruction tokens in a prompt."""
QUANTIZED = {"int8": 1.0, "nf4": 0.5}
"""Bytes per parameter in the language model's layers."""


def footprint(setup: Setup, spec: EnvSpec, device: torch.device, rows: int) -> Footprint:
    """See `rpd.teachers.registry.footprint`. Keys and values are exact, activations of a forward pass are estimated."""
    config, options = setup.checkpoint.config, setup.options
    dtype, bits = precision(options.dtype, device)
    with torch.device("meta"):
        model = OpenVLA(config)
    layers = sum(p.numel() for p in model.language_model.model.layers.parameters())
    weights = dtype.itemsize * (model.num_parameters - layers) + (QUANTIZED[bits] if bits else dtype.itemsize) * layers
    llama = model.language_model.config
    batch, tokens = min(rows, options.batch), config.num_patches + PROMPT + setup.statistics.dim
    heads = llama.num_key_value_heads or llama.num_attention_heads
    kept = 2 * llama.num_hidden_layers * heads * (llama.hidden_size // llama.num_attention_heads) * dtype.itemsize  # per token
    # One layer, in a pass over image and prompt: residual stream, queries, keys, values; gate, up and their product.
    layer = batch * tokens * (4 * llama.hidden_size + 3 * llama.intermediate_size) * dtype.itemsize
    cache = 0 if options.cache is None else rows * config.num_patches * kept
    bins = (spec.action.dim, config.n_action_bins - 1)
    label = {"mean": bins[:1], "std": bins[:1], "bin_logits": bins, "log_prob": bins[:1]}
    return Footprint(int(weights), batch * tokens * kept + layer + cache, label)
