import pytest
import torch

from rpd.students.networks.encoders import ImageEncoder, init, mlp

CHANNELS, FEATURES = (32, 32), 128


@pytest.mark.parametrize("size", [8, 32, 64, 84, 128, 256])
def test_any_size_in_few_parameters(size):
    encoder = ImageEncoder((size, size, 3), CHANNELS, FEATURES)
    assert encoder(torch.zeros(2, size, size, 3, dtype=torch.uint8)).shape == (2, FEATURES)
    assert sum(p.numel() for p in encoder.parameters()) < 300_000


def test_image_is_left_as_it_is():
    image = torch.full((1, 64, 48, 3), 200, dtype=torch.uint8)
    ImageEncoder((64, 48, 3), CHANNELS, FEATURES)(image)
    assert (image == 200).all()


@pytest.mark.slow
def test_encoder_localizes_a_dot():
    """A regression on the position of a 5-pixel dot, on changing backgrounds, gets below 3 pixels."""
    torch.manual_seed(0)
    encoder, head = ImageEncoder((64, 64, 3), CHANNELS, FEATURES), init(torch.nn.Linear(FEATURES, 2), 0.1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    pixel = torch.arange(64.0)

    def dots(n):
        position = torch.rand(n, 2) * 52 + 6
        row, column = ((pixel - position[:, i, None]).abs() < 2.5 for i in range(2))
        dot = (row[:, :, None] & column[:, None, :])[..., None]  # [n, 64, 64, 1]
        background = torch.randint(60, 180, (n, 1, 1, 3))
        return torch.where(dot, torch.tensor([40, 200, 40]), background).to(torch.uint8), (position - 32) / 32

    for _ in range(120):
        image, position = dots(48)
        loss = (head(encoder(image)) - position).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        image, position = dots(256)
        assert (head(encoder(image)) - position).abs().mean() * 32 < 3


def test_actor_starts_near_zero():
    torch.manual_seed(0)
    x = torch.randn(100, 10)
    assert mlp([10, 64, 64, 7], out_gain=0.01)(x).abs().max() < 0.1
    assert mlp([10, 64, 64, 7], out_gain=1.0)(x).abs().max() > 0.5
