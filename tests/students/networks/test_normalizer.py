import numpy as np
import torch

from rpd.students.networks.normalizer import CLIP, MIN_STD, PRIOR_STD, Normalizer


def test_chunks_equal_the_whole():
    data = np.random.default_rng(0).normal([1e3, 0.0, -5.0], [1.0, 1e-2, 3.0], size=(1000, 3))
    normalizer = Normalizer(3)
    for chunk in np.split(data, [1, 8, 300, 301]):
        normalizer.update(torch.from_numpy(chunk))
    np.testing.assert_allclose(normalizer.mean, data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.var, data.var(0), rtol=1e-9)
    assert normalizer.count == 1000


def test_prior_of_the_first_observations_only():
    """Two at rest and two pseudo-observations of variance 0.01; the next ones are merged with these four."""
    normalizer = Normalizer(1)
    normalizer.update(torch.tensor([[5.0], [5.0]]), prior=True)
    assert normalizer.mean.item() == 5.0 and normalizer.count == 4
    np.testing.assert_allclose(normalizer.var.item(), 0.5 * PRIOR_STD**2)
    normalizer.update(torch.tensor([[6.0]]), prior=True)
    assert normalizer.count == 5 and normalizer.mean.item() == 5.2
    np.testing.assert_allclose(normalizer.var.item(), (4 * 0.5 * PRIOR_STD**2 + 4 / 5) / 5)


def test_whitens_and_clips():
    normalizer = Normalizer(2)
    normalizer.update(torch.tensor([[1.0, 7.0], [3.0, 7.0]]))  # mean 2, std 1; a constant
    x = torch.tensor([[4.0, 7.0], [-90.0, 7.0 + MIN_STD]])
    torch.testing.assert_close(normalizer(x), torch.tensor([[2.0, 0.0], [-CLIP, 1.0]]), atol=1e-3, rtol=0)
    assert normalizer(x).dtype == torch.float32


def test_identity_before_the_first_update():
    x = torch.tensor([[0.5, -2.0]])
    assert torch.equal(Normalizer(2)(x), x)


def test_scaled_entries_are_not_normalized():
    normalizer = Normalizer(2, scaled=(False, True))
    normalizer.update(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))  # a touch, for example, that has not yet happened
    assert torch.equal(normalizer(torch.tensor([[4.0, 1.0]])), torch.tensor([[2.0, 1.0]]))
