"""The same numbers as the original code, at the tolerances that tell a faithful port from one with a detail wrong.

1e-4 in the logits is enough to see LayerNorm or RMSNorm with the wrong eps, GELU's tanh approximation, or ImageNet's
constants before they were rounded to bfloat16.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.teachers.openvla import decode, processing, weights
from rpd.teachers.openvla.prompt import pad

PIXELS, FEATURES, LOGITS, BATCHED = 1e-6, 5e-5, 1e-4, 5e-5


def pixels(golden, checkpoint, i):
    return processing.normalize(processing.resize(golden.image(i), checkpoint.processor), checkpoint.processor)


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def prompts(golden, checkpoint):
    prompter = checkpoint.prompter(7)
    return [prompter.ids(instruction) for instruction in golden.instructions]


@pytest.fixture(scope="module")
def visual(golden, checkpoint, model):
    return model.encode_images(torch.cat([pixels(golden, checkpoint, i) for i in golden.samples]))


def window(answer):
    """Logits of ids 31744 .. 31999, the order of the golden data."""
    return answer.logits.flip(-1)


@pytest.mark.parametrize("i", range(5))
def test_one_at_a_time(golden, checkpoint, model, prompts, i):
    image = pixels(golden, checkpoint, i)
    close(image, golden.of(i, "pixel_values"), PIXELS)
    dino, siglip = (vit(part) for vit, part in zip(model.vision_backbone.vits, image.split(3, 1), strict=True))
    close(dino, golden.of(i, "features_dino"), FEATURES)
    close(siglip, golden.of(i, "features_siglip"), FEATURES)
    visual = model.encode_images(image)
    close(visual, golden.of(i, "projector"), FEATURES)

    context = decode.prefill(model, visual, *pad([prompts[i]], 32000))
    close(context.hidden, golden.of(i, "prefill_last_hidden_after_norm"), FEATURES)
    answer = decode.greedy(model, context, 7, total=True)
    close(window(answer)[0], golden.of(i, "action_window_logits"), LOGITS)
    close(answer.total[0], golden.of(i, "full_vocab_logsumexp"), LOGITS)
    assert answer.tokens[0].tolist() == golden.of(i, "tokens").tolist()


def test_whole_vocabulary(golden, model, prompts, visual):
    context = decode.prefill(model, visual[:1], *pad([prompts[0]], 32000))
    close(model.logits(context.hidden), golden.of(0, "prefill_last_logits"), LOGITS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_length_in_one_batch(golden, model, prompts, visual, side):
    assert len({len(p) for p in prompts}) > 2
    context = decode.prefill(model, visual, *pad(prompts, 32000, side))
    answer = decode.greedy(model, context, 7)
    for i in golden.samples:
        close(window(answer)[i], golden.of(i, "action_window_logits"), BATCHED)
        assert answer.tokens[i].tolist() == golden.of(i, "tokens").tolist()


def test_padding_may_hold_any_token(model, prompts, visual):
    ids, mask = pad(prompts, 32000)
    context = decode.prefill(model, visual, ids.masked_fill(~mask, 512), mask)
    assert torch.equal(context.hidden, decode.prefill(model, visual, ids, mask).hidden)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scoring_gives_the_distributions_of_decoding(model, prompts, visual, side):
    context = decode.prefill(model, visual, *pad(prompts, 32000, side))
    decoded = decode.greedy(model, context, 7)
    scored = decode.score(model, context, decoded.tokens)  # on the same prefill
    close(scored.logits, decoded.logits, BATCHED)
    again = decode.greedy(model, context, 7)  # and the context is as it was
    assert torch.equal(again.tokens, decoded.tokens)


def test_scoring_is_of_the_given_tokens(model, prompts, visual):
    context = decode.prefill(model, visual[:1], *pad(prompts[:1], 32000))
    given = torch.tensor([[31900, 31800, 31744, 31999, 31872, 31850, 31750]])
    scored = decode.score(model, context, given)
    changed = given.clone()
    changed[0, 3] = 31801
    other = decode.score(model, context, changed)
    assert torch.equal(scored.logits[0, :4], other.logits[0, :4])  # a dimension sees those before it
    assert (scored.logits[0, 4:] - other.logits[0, 4:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_training_forward(golden, checkpoint, model, prompts, visual, side):
    ids, mask = pad(prompts, 32000, side)
    decoded = decode.greedy(model, decode.prefill(model, visual, ids, mask), 7, total=True)
    images = torch.cat([pixels(golden, checkpoint, i) for i in golden.samples])
    logits = model(images, ids, mask, decoded.tokens)
    close(logits[..., 31744:32000].flip(-1), decoded.logits, BATCHED)
    close(logits.logsumexp(-1), decoded.total, BATCHED)


def test_image_matters(model, prompts, visual):
    context = decode.prefill(model, visual, *pad([prompts[0]] * 5, 32000))
    first = decode.greedy(model, context, 7).logits[:, 0]
    for i in range(1, 5):
        assert (first[i] - first[0]).abs().max() > 0.1


def test_instruction_matters(model, prompts, visual):
    context = decode.prefill(model, visual[:1].expand(5, -1, -1), *pad(prompts, 32000))
    first = decode.greedy(model, context, 7).logits[:, 0]
    assert all((first[i] - first[0]).abs().max() > 0.1 for i in range(1, 5))


def test_bfloat16(golden, checkpoint, folder, prompts):
    model = weights.load(checkpoint, folder, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    images = torch.cat([pixels(golden, checkpoint, i) for i in golden.samples])
    context = decode.prefill(model, model.encode_images(images), *pad(prompts, 32000))
    answer = decode.greedy(model, context, 7)
    for i in golden.samples:
        close(window(answer)[i, 0], golden.of(i, "bf16_first_step_action_window_logits"), 0.2)
        assert answer.tokens[i].tolist() == golden.of(i, "tokens").tolist()


def test_attention_implementations_agree(golden, checkpoint, folder, prompts, visual):
    model = weights.load(checkpoint, folder)
    model.language_model.set_attn_implementation("eager")
    answer = decode.greedy(model, decode.prefill(model, visual, *pad(prompts, 32000)), 7)
    for i in golden.samples:
        close(window(answer)[i], golden.of(i, "action_window_logits"), BATCHED)
