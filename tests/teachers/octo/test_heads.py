"""Action heads by themselves against the original: outputs, losses, actions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rpd.teachers.octo.build_head import build_head
from rpd.teachers.octo.config import HEADS
from rpd.teachers.octo.diffusion import DiffusionActionHead
from rpd.teachers.octo.heads import DiscreteActionHead, draw, masked_mean
from rpd.teachers.octo.param_names import from_original, original
from rpd.teachers.octo.schedule import cosine

FOLDER = Path(__file__).parent / "golden" / "heads"
CONTINUOUS, DISCRETE = ("continuous_mean", "l1_map", "mse_map"), ("per_dim", "per_horizon_normal", "single_map")


def recorded(name):
    """A head with its recorded weights, and the arrays of its case."""
    arrays = dict(np.load(FOLDER / f"head_{name}.npz"))
    kind, kwargs = str(arrays["meta/class"]), json.loads(str(arrays["meta/kwargs"]))
    head = build_head(HEADS[kind].model_validate(kwargs | {"readout_key": "readout_action"}), arrays["in/tokens"].shape[-1])
    state = {}
    for ours in head.state_dict():
        path = original(f"head.{ours}", "x").removeprefix("heads_x/")
        state[ours] = from_original(path, torch.from_numpy(arrays.pop(f"params/{path}")))
    assert not any(key.startswith("params/") for key in arrays)
    head.load_state_dict(state)
    case = SimpleNamespace(**{k.split("/", 1)[1].replace("/", "_").replace(".", ""): v for k, v in arrays.items()})
    tensors = {k: torch.from_numpy(v) for k, v in vars(case).items() if v.dtype.kind in "fib" and v.ndim}
    return head.requires_grad_(False), SimpleNamespace(**vars(case) | tensors)


def close(found, expected, atol):
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=atol, rtol=0)


def label_mask(case):
    return case.loss_timestep_pad_mask[:, :, None, None] & case.loss_action_pad_mask


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous(name):
    head, case = recorded(name)
    valid = case.mask.bool()
    close(head(case.tokens, valid), case.call, 3e-5)
    chunks = head.sample(case.tokens[:, -1], tuple(case.actions.shape[:1]), torch.Generator())
    close(chunks, case.actions, 3e-5)  # the original repeats its one answer per sample
    assert not head.is_random


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_loss(name):
    head, case = recorded(name)
    found = head.loss(case.tokens, case.loss_actions, label_mask(case), torch.Generator())
    torch.testing.assert_close(found, torch.tensor(float(case.loss_loss)), atol=0, rtol=1e-5)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete(name):
    head, case = recorded(f"discrete_{name}")
    assert isinstance(head, DiscreteActionHead) and head.is_random
    close(head(case.tokens, case.mask.bool()), case.call, 1e-5)
    close(head.edges, case.thresholds, 1e-6)
    logits = head(case.tokens)[:, -1]
    close(head.decode(logits.argmax(-1)), case.actions_argmax, 1e-6)
    close(head.decode(draw(logits, case.gumbel, 0.7)), case.actions_sampled_T07, 1e-6)
    loss = head.loss(case.tokens, case.loss_actions, label_mask(case), torch.Generator())
    torch.testing.assert_close(loss, torch.tensor(float(case.loss_loss)), atol=0, rtol=1e-5)


def test_discrete_samples_follow_the_logits():
    head, case = recorded("discrete_single_map")
    tokens = case.tokens[:, -1]
    drawn = head.encode(head.sample(tokens, (4000,), torch.Generator().manual_seed(0)))
    found = torch.nn.functional.one_hot(drawn, 16).float().mean(0)
    assert (found - head(tokens).softmax(-1)).abs().max() < 0.04


def test_diffusion():
    head, case = recorded("diffusion_map")
    assert isinstance(head, DiffusionActionHead)
    for found, expected in zip(cosine(20), (case.betas, case.alphas, case.alpha_hats), strict=True):
        close(found, expected, 1e-6)
    close(head(head.embedding(case.tokens, case.mask.bool()), case.noisy_actions, case.time), case.eps, 1e-5)
    init, noise = case.noise_init[..., -1, :], case.noise_steps[..., -1, :]
    close(head.denoise(case.tokens[:, -1], init, noise), case.actions, 2e-5)


def test_diffusion_loss_is_that_of_the_noise(monkeypatch):
    """A head that knows the clean actions predicts their noise, and has no loss; one that says 0 has that of the noise."""
    head, case = recorded("diffusion_map")
    clean = case.loss_actions.flatten(-2).clamp(-5, 5)
    table = cosine(20).alpha_bar

    def knows(embedding, x, time):
        return (x - table[time].sqrt() * clean) / (1 - table[time]).sqrt()

    def loss():
        return head.loss(case.tokens, case.loss_actions, label_mask(case), torch.Generator().manual_seed(0))

    monkeypatch.setattr(head, "forward", knows)
    assert loss() < 1e-6
    monkeypatch.setattr(head, "forward", lambda embedding, x, time: torch.zeros_like(x))
    assert 4 < loss() < 11  # 7 dimensions of variance 1


def test_masked_mean():
    values, mask = torch.tensor([1.0, 2.0, 30.0]), torch.tensor([True, True, False])
    assert masked_mean(values, mask) == 1.5
    assert masked_mean(values, ~mask & mask) == 0
