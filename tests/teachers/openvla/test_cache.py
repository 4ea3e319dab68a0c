"""The visual-token cache: exact with eps = 0, approximate and cheaper above, never across episodes."""

from __future__ import annotations

import pytest
import torch

from rpd.teachers.openvla import decode, processing
from rpd.teachers.openvla.cache import VisualTokenCache
from rpd.teachers.openvla.prompt import pad

PATCH, SIDE, BOS = 14, 5, 1


def scene(n=3, seed=0):
    return torch.randint(0, 256, (n, 70, 70, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def paint(images, row, patch, value):
    """The same images with one patch of one of them of one colour."""
    changed = images.clone()
    y, x = PATCH * (patch // SIDE), PATCH * (patch % SIDE)
    changed[row, y : y + PATCH, x : x + PATCH] = value
    return changed


def values(prefix):
    """All keys and values of a prefix, by token: [N, 1 + P, ...]."""
    return torch.cat([t.transpose(1, 2).flatten(2) for pair in prefix for t in pair], -1)


@pytest.fixture
def look(checkpoint, model):
    def through(cache):
        return lambda images: values(cache(images, processing.normalize(images, checkpoint.processor)))

    through.exactly = lambda images: through(VisualTokenCache(model, BOS, 0.0))(images)
    return through


def test_exact_with_eps_zero(look, model):
    cache = VisualTokenCache(model, BOS, 0.0)
    images = scene()
    for seen in (images, images, paint(images, 1, 7, 200), paint(images, 1, 7, 200), images, scene(seed=1)):
        torch.testing.assert_close(look(cache)(seen), look.exactly(seen), atol=1e-6, rtol=0)
    assert cache.computed == 25 * (3 + 0 + 1 + 0 + 1 + 3) and cache.asked == 25 * 18


def test_only_changed_patches_are_recomputed(look, model):
    cache = VisualTokenCache(model, BOS, 0.1)
    images = scene()
    before = look(cache)(images)
    changed = paint(paint(images, 1, 7, 255), 2, 0, 0)
    changed = paint(changed, 2, 24, 0)
    after, exact = look(cache)(changed), look.exactly(changed)
    assert cache.computed == 25 * 3 + 2 * 2  # two patches in each of the rows that changed: as many as in the busiest
    assert torch.equal(after[0], before[0])
    same = (after == before).all(-1)[:, 1:]
    assert same[1].sum() == 23 and not same[1, 7] and same[2].sum() == 23 and not same[2, 0] and not same[2, 24]
    # The painted patches are closer to what they should be than they were, and the whole is not far off.
    for row, patch in ((1, 7), (2, 0), (2, 24)):
        assert (after - exact)[row, 1 + patch].norm() < 0.3 * (before - exact)[row, 1 + patch].norm()


def test_partial_pass_is_exact_with_every_patch_in_it(checkpoint, model, look):
    """It approximates nothing by itself: all that is wrong with it is what it leaves out."""
    cache = VisualTokenCache(model, BOS, 0.1)
    look(cache)(scene())
    other = scene(seed=1)
    pixels = processing.normalize(other, checkpoint.processor)
    every = torch.stack([torch.randperm(25, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    cache._compute(torch.arange(3), other, pixels, every)
    torch.testing.assert_close(values(cache._prefix), look.exactly(other), atol=1e-5, rtol=0)


def test_cached_prefill_equals_full_prefill(checkpoint, model):
    """Prompts behind the cache's keys and values read like prompts behind the image."""
    images = scene()
    pixels = processing.normalize(images, checkpoint.processor)
    prompts = [checkpoint.prompter(7).ids(text) for text in ("lift it", "pick up the cube", "close the door")]
    plain = decode.prefill(model, model.encode_images(pixels), *pad(prompts, 32000))
    prefix = VisualTokenCache(model, BOS, 0.0)(images, pixels)
    behind = decode.prefill_text(model, prefix, *pad(prompts, 32000))
    torch.testing.assert_close(behind.hidden, plain.hidden, atol=1e-5, rtol=0)
    given = torch.tensor([[31900, 31800, 31750]] * 3)
    for path in (lambda c: decode.score(model, c, given), lambda c: decode.greedy(model, c, 3)):
        torch.testing.assert_close(path(behind).logits, path(plain).logits, atol=5e-5, rtol=0)


def test_small_changes_add_up(look, model):
    """A patch is compared with what its token saw, not with the last image: slow drifts are noticed."""
    cache = VisualTokenCache(model, BOS, 10 / 255)
    dark = torch.full((1, 70, 70, 3), 100, dtype=torch.uint8)
    first = look(cache)(dark)
    for value in (104, 108):
        assert torch.equal(look(cache)(paint(dark, 0, 3, value)), first)
    assert not torch.equal(look(cache)(paint(dark, 0, 3, 112)), first)
    assert cache.computed == 25 + 1


def test_much_change_is_computed_whole(look, model):
    cache = VisualTokenCache(model, BOS, 0.1)
    images = scene()
    look(cache)(images)
    other = images.clone()
    other[1] = 255 - other[1]
    torch.testing.assert_close(look(cache)(other)[1], look.exactly(other)[1], atol=1e-6, rtol=0)
    assert cache.computed == 25 * 3 + 25


def test_episode_that_ended_is_forgotten(look, model):
    cache = VisualTokenCache(model, BOS, 0.1)
    images = scene()
    look(cache)(images)
    changed = paint(paint(images, 0, 7, 255), 1, 7, 255)
    cache.reset(torch.tensor([True, False, False]))
    after = look(cache)(changed)
    torch.testing.assert_close(after[0], look.exactly(changed)[0], atol=1e-6, rtol=0)
    assert (after[1] - look.exactly(changed)[1]).abs().max() > 1e-4
    assert cache.computed == 25 * 3 + 25 + 1
    look(cache)(changed)
    assert cache.computed == 25 * 3 + 25 + 1


def test_another_number_of_images_starts_over(look, model):
    cache = VisualTokenCache(model, BOS, 0.1)
    look(cache)(scene())
    cache.reset(torch.tensor([True]))
    torch.testing.assert_close(look(cache)(scene(2)), look.exactly(scene(2)), atol=1e-6, rtol=0)


def test_in_and_out_of_inference_mode(look, model):
    """Evaluation runs without gradients, collection in inference mode; both use one cache."""
    cache = VisualTokenCache(model, BOS, 0.1)
    with torch.inference_mode():
        look(cache)(scene())
    look(cache)(paint(scene(), 0, 1, 9))
    with torch.inference_mode():
        assert look(cache)(paint(scene(), 1, 1, 9)).isfinite().all()
