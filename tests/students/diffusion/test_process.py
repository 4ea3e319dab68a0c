"""Noise and the steps back: by hand, and against diffusers' schedulers."""

import math

import pytest
import torch

from rpd.students.diffusion.process import Diffusion, Flow


def at(level):
    return torch.tensor(level).view(1, 1, 1)


@pytest.fixture(scope="module")
def diffusion():
    process = Diffusion(100)
    process.schedule()
    return process


@pytest.fixture(scope="module")
def chunks():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 2, generator=generator) for _ in range(2)]


def test_schedule_is_squared_cosine(diffusion):
    f = [math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 1, 50)]
    assert diffusion.alpha_bar[:2].tolist() == pytest.approx([1.0, f[1] / f[0]], abs=1e-6)
    assert diffusion.alpha_bar[50].item() == pytest.approx(f[2] / f[0], abs=1e-5)


def test_steps_by_hand():
    """Two levels with alpha_bar 0.64 and 0.25, one number."""
    process = Diffusion(2)
    process.alpha_bar.copy_(torch.tensor([1.0, 0.64, 0.25]))
    x, eps, noise = (torch.tensor(v).view(1, 1, 1) for v in (0.5, 0.2, 1.0))
    clean = (0.5 - math.sqrt(0.75) * 0.2) / 0.5  # 0.653...
    assert process.clean(x, eps, at(1)).item() == pytest.approx(clean)
    ddim = process.step(x, eps, at(1), at(0)).item()
    assert ddim == pytest.approx(0.8 * clean + 0.6 * 0.2)
    alpha = 0.25 / 0.64
    mean = 0.8 * (1 - alpha) / 0.75 * clean + math.sqrt(alpha) * 0.36 / 0.75 * 0.5
    sigma = math.sqrt(0.36 / 0.75 * (1 - alpha))
    assert process.step(x, eps, at(1), at(0), noise).item() == pytest.approx(mean + sigma)
    assert process.step(x, eps, at(1), at(-1), noise).item() == pytest.approx(clean)  # the last step adds nothing
    assert process.clean(at(5).float(), eps, at(1)).item() == 1.0  # clipped


@pytest.mark.parametrize("levels", [list(range(99, -1, -9)), [2, 1, 0], [7, 5, 3, 1, 0], [20, 0]])
def test_ddpm_is_diffusers_on_any_subsequence(diffusion, chunks, levels):
    """A skipped list takes steps of that size: what RTI's official code approximates by steps of one level."""
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    theirs = schedulers.DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True, variance_type="fixed_small")
    theirs.set_timesteps(timesteps=levels)
    x, eps = chunks
    for now, then in zip(levels, [*levels[1:], -1], strict=True):
        expected = theirs.step(eps, now, x, generator=torch.Generator().manual_seed(now)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(now))
        torch.testing.assert_close(diffusion.step(x, eps, at(now), at(then), noise), expected, atol=1e-5, rtol=0)


def test_ddim_and_noise_are_diffusers(diffusion, chunks):
    schedulers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = schedulers.DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    theirs.set_timesteps(10)
    x, eps = chunks
    for now in theirs.timesteps.tolist():
        expected = theirs.step(eps, now, x).prev_sample
        torch.testing.assert_close(diffusion.step(x, eps, at(now), at(max(now - 10, -1))), expected, atol=1e-5, rtol=0)
        noisy = theirs.add_noise(x, eps, torch.tensor(now))
        torch.testing.assert_close(diffusion.noisy(x, eps, at(now)), noisy, atol=1e-6, rtol=0)


def test_rows_and_actions_may_be_at_different_levels(diffusion, chunks):
    x, eps = chunks
    now = torch.tensor([[9, 9, 50, 50]]).unsqueeze(-1).expand(3, 4, 1)
    then = torch.tensor([[-1, 9, 40, 50]]).unsqueeze(-1).expand(3, 4, 1)
    together = diffusion.step(x, eps, now, then)
    for i in range(4):
        alone = diffusion.step(x[:, i : i + 1], eps[:, i : i + 1], now[:, i : i + 1], then[:, i : i + 1])
        torch.testing.assert_close(together[:, i : i + 1], alone)
    assert torch.equal(together[:, 1], x[:, 1]) and torch.equal(together[:, 3], x[:, 3])  # stayed where they were


@pytest.mark.parametrize("process", [Flow(10), "ddpm"])
def test_clean_undoes_noise_and_prediction_inverts_it(process, diffusion, chunks):
    process = diffusion if process == "ddpm" else process
    clean, noise = chunks[0].clamp(-1, 1), chunks[1]
    x = process.noisy(clean, noise, at(5))
    target = process.target(clean, noise)
    torch.testing.assert_close(process.clean(x, target, at(5)), clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(process.prediction(x, clean, at(5)), target, atol=1e-4, rtol=0)
    torch.testing.assert_close(process.step(x, target, at(5), at(-1)), clean, atol=1e-5, rtol=0)


def test_flow_is_a_straight_line():
    process = Flow(4)
    clean, noise = torch.tensor([[[0.2]]]), torch.tensor([[[1.0]]])
    assert process.noisy(clean, noise, at(3)).item() == 1.0  # the last level is noise alone
    assert process.noisy(clean, noise, at(1)).item() == pytest.approx(0.6)
    assert process.step(torch.tensor([[[1.0]]]), noise - clean, at(3), at(1)).item() == pytest.approx(0.6)
