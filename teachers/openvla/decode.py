"""Distributions over action tokens, for batches of prompts of different length.

One pass over image and prompt (`prefill`), then one short pass per action token on cached keys and values. Rows may be padded
left or right: positions are counted without padding, and padding stays masked in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rpd.teachers.openvla.model import DynamicCache, OpenVLA, interleave, last_column, positions
from rpd.teachers.openvla.vision import KeyValue


@dataclass
class Context:
    """Cached keys and values of the image and prompt of N rows."""

    cache: DynamicCache
    mask: Tensor | None
    """[N, L] bool, False at padding; None: no padding."""
    lengths: Tensor
    """[N] number of tokens of each row without padding: the position of the next token."""
    columns: int
    """L, including padding."""
    hidden: Tensor
    """[N, hidden] after each row's last token: input of the first action token's logits."""


@dataclass(frozen=True)
class Answer:
    """Distributions of D action tokens, each conditioned on the previous ones."""

    tokens: Tensor
    """[N, D] ids: chosen, or given for scoring."""
    logits: Tensor
    """[N, D, bins] float32 of the action tokens, from the lowest action to the highest: column k is token V - 1 - k."""
    total: Tensor | None = None
    """[N, D] logsumexp over the whole vocabulary: exp(logsumexp(logits) - total) is the probability of action tokens."""


def prefill(model: OpenVLA, visual: Tensor, input_ids: Tensor, mask: Tensor) -> Context:
    """Run the model over images and prompts.

    Args:
        model: the network.
        visual: [N, P, hidden] from `OpenVLA.encode_images`.
        input_ids: [N, L] prompts, padded on either side.
        mask: [N, L] bool, False at padding.
    """
    padded = not bool(mask.all())
    embeddings, full = interleave(model.embed(input_ids), mask, visual)
    cache = DynamicCache(config=model.language_model.config)
    hidden = model.run_transformer(embeddings, full if padded else None, positions(full), cache)
    last = hidden[torch.arange(len(hidden), device=hidden.device), last_column(full)]
    return Context(cache, full if padded else None, full.sum(1), full.shape[1], last)


def prefill_text(model: OpenVLA, prefix: list[KeyValue], input_ids: Tensor, mask: Tensor) -> Context:
    """Run the model over prompts whose images are cached, see `cache.VisualTokenCache`.

    Args:
        model: the network.
        prefix: keys and values of [BOS] [patches] per layer, N rows.
        input_ids: [N, L] prompts, padded on the right.
        mask: [N, L] bool, False at padding.
    """
    cache = DynamicCache(config=model.language_model.config)
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys, values, layer)
    before = prefix[0][0].shape[2]
    full = torch.cat([mask.new_ones(len(mask), before), mask[:, 1:]], 1)
    known = None if bool(mask.all()) else full
    hidden = model.run_transformer(model.embed(input_ids[:, 1:]), known, positions(full)[:, before:], cache)
    last = hidden[torch.arange(len(hidden), device=hidden.device), last_column(full) - before]
    return Context(cache, known, full.sum(1), full.shape[1], last)


def greedy(model: OpenVLA, context: Context, dim: int, total: bool = False) -> Answer:
    """Choose `dim` tokens greedily over the whole vocabulary, each conditioned on the previous ones, as OpenVLA acts.

    Args:
        model: the network.
        context: result of the prefill.
        dim: number of action dimensions, D.
        total: whether to compute `Answer.total`, which takes as long as the choice.
    """
    hidden = context.hidden
    tokens: list[Tensor] = []
    window: list[Tensor] = []
    mass: list[Tensor] = []
    for d in range(dim):
        if d > 0:
            hidden = _continue(model, context, tokens[-1][:, None], d - 1)[:, 0]
        logits = model.logits(hidden)
        peak, token = logits.max(-1)
        tokens.append(token)
        # NaN anywhere in the vocabulary wins the argmax, so that the whole answer is invalid
        window.append(torch.where(peak.isfinite()[:, None], logits[:, model.action_tokens].flip(-1), torch.nan))
        if total:
            mass.append(logits.logsumexp(-1))
    _rewind(context)
    return Answer(torch.stack(tokens, 1), torch.stack(window, 1), torch.stack(mass, 1) if total else None)


def score(model: OpenVLA, context: Context, tokens: Tensor) -> Answer:
    """Compute the distributions along given tokens [N, D]: one pass over the first D - 1 of them."""
    hidden = context.hidden[:, None]
    if tokens.shape[1] > 1:
        hidden = torch.cat([hidden, _continue(model, context, tokens[:, :-1], 0)], 1)
        _rewind(context)
    return Answer(tokens, model.action_logits(hidden).flip(-1))


def _continue(model: OpenVLA, context: Context, tokens: Tensor, done: int) -> Tensor:
    """Process tokens [N, K] after the prompt and `done` earlier action tokens: [N, K, hidden]."""
    count = tokens.shape[1]
    place = context.lengths[:, None] + done + torch.arange(count, device=tokens.device)
    mask = context.mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(len(mask), done + count)], 1)
    return model.run_transformer(model.embed(tokens), mask, place, context.cache)


def _rewind(context: Context) -> None:
    """Remove the action tokens from the cache, so that the prompt can be continued differently."""
    extra = context.cache.get_seq_length() - context.columns
    if extra > 0:
        context.cache.crop(-extra)
