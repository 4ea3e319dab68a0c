"""Schedules, bins and resized pictures against the original's tables; DDIM on distributions whose noise is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rpd.teachers.octo.config import DiscreteHead
from rpd.teachers.octo.heads import DiscreteActionHead
from rpd.teachers.octo.images import crop, lanczos, resize
from rpd.teachers.octo.schedule import cosine, ddim, ddpm

TABLES = dict(np.load(Path(__file__).parent / "golden" / "misc_tables.npz"))


@pytest.mark.parametrize("steps", [5, 12, 20, 50, 100])
def test_schedule(steps):
    for found, name in zip(cosine(steps), ("betas", "alphas", "alpha_hats"), strict=True):
        np.testing.assert_allclose(found, TABLES[f"{name}_{steps}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_bins(kind):
    head = DiscreteActionHead(DiscreteHead(readout_key="readout_action", normalization_type=kind), 8)
    values = torch.from_numpy(TABLES[f"bin_{kind}_in"])
    assert torch.equal(head.encode(values), torch.from_numpy(TABLES[f"bin_{kind}_ids"]).long())
    if kind == "normal":
        np.testing.assert_allclose(head.decode(torch.arange(256)), TABLES["bin_normal_decode_all"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize(("camera", "area"), [("primary", 0.9), ("wrist", None)])
def test_resized_pictures(way, camera, area):
    image, expected = (torch.from_numpy(TABLES[f"resize_{way}_{camera}_{end}"])[None] for end in ("in", "out"))
    assert torch.equal(resize(image, (64, 64), area), expected)


def test_pictures_of_the_right_size_stay():
    image = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    assert resize(image, (32, 32)) is image
    torch.testing.assert_close(lanczos(32, 32), torch.eye(32, dtype=torch.float64))
    torch.testing.assert_close(crop(32, 1.0), torch.eye(32, dtype=torch.float64))


def gaussian(mean, std, schedule):
    """The exact noise of data that are normally distributed: E[eps | x_t]."""

    def denoise(x, t):
        alpha_bar = schedule.alpha_bar[t]
        variance = alpha_bar * std**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return denoise


@pytest.mark.parametrize(("walk", "steps", "std"), [(ddpm, 20, 0.41), (ddim, 20, 0.36), (ddim, 10, 0.335), (ddim, 5, 0.28)])
def test_walks_end_in_the_data(walk, steps, std):
    """Both find the mean; the deterministic walk loses spread, the more the fewer its steps (0.4 would be right)."""
    generator, schedule = torch.Generator().manual_seed(0), cosine(20)
    x, noise = torch.randn(4000, 1, generator=generator), torch.randn(steps, 4000, 1, generator=generator)
    found = walk(gaussian(0.5, 0.4, schedule), schedule, x, noise, 5.0)
    assert abs(found.mean() - 0.5) < 0.02 and abs(found.std() - std) < 0.015


def test_ddim_adds_no_noise():
    schedule, x = cosine(20), torch.randn(8, 2)
    runs = [ddim(gaussian(0, 1, schedule), schedule, x, torch.randn(5, 8, 2), 5.0) for _ in range(2)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("walk", [ddpm, ddim])
def test_dimensions_without_data_stay_noise(walk):
    schedule, x, noise = cosine(20), torch.randn(8, 2), torch.randn(20, 8, 2)
    found = walk(gaussian(0, 1, schedule), schedule, x, noise, 5.0, torch.tensor([False, True]))
    torch.testing.assert_close(found[:, 1], (1 - schedule.alpha_bar[0]).sqrt() * noise[-1, :, 1])
