"""Images: bit for bit what torchvision made of them, for every strategy; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rpd.envs.errors import ConfigError
from rpd.teachers.openvla import processing
from rpd.teachers.openvla.config import Crop, Resize
from rpd.teachers.vla.images import check_images

STRATEGIES = {
    "resize-naive": {"tvf_resize_params": [Resize(size=(224, 224))] * 2},
    "resize-crop": {"tvf_resize_params": [Resize(size=224)] * 2},
    "letterbox": {
        "tvf_resize_params": [Resize(size=224)] * 2,
        "tvf_do_letterbox": True,
        "tvf_letterbox_fill": (127, 127, 127),
    },
}


@pytest.fixture
def processor(checkpoint, request):
    crop = {"tvf_crop_params": [Crop(output_size=(224, 224))] * 2}
    return checkpoint.processor.model_copy(update=crop | STRATEGIES[request.param])


@pytest.mark.parametrize("processor", STRATEGIES, indirect=True, ids=lambda p: p)
@pytest.mark.parametrize("i", [0, 1], ids=["wide", "square"])
def test_224_pixels(golden, processor, request, i):
    prefix = f"pre224/{request.node.callspec.params['processor']}/im{i}"
    resized = processing.resize(golden.image(i), processor)
    assert np.array_equal(resized[0].permute(2, 0, 1), golden.arrays[f"{prefix}/resized_uint8_chw"])
    pixels = processing.normalize(resized, processor)
    assert pixels.shape == (1, 6, 224, 224)
    np.testing.assert_allclose(pixels[0, :, :8, :8], golden.arrays[f"{prefix}/corner_6ch_8x8"], atol=1e-6)
    statistics = torch.stack([pixels[0, :3].mean((1, 2)), pixels[0, :3].std((1, 2), correction=0)])
    np.testing.assert_allclose(statistics, golden.arrays[f"{prefix}/dino_channel_mean_std"], atol=1e-6)


def test_image_of_the_right_size_is_left_alone(golden, checkpoint):
    image = golden.image(2)  # 70 x 70
    assert processing.resize(image, checkpoint.processor) is image


def test_batch_is_its_images(golden, checkpoint):
    batch = torch.cat([golden.image(1), golden.image(1).flip(1)])
    both = processing.resize(batch, checkpoint.processor)
    assert torch.equal(both[:1], processing.resize(batch[:1], checkpoint.processor))
    assert torch.equal(both[1:], processing.resize(batch[1:], checkpoint.processor))


def test_crop_by_hand():
    """A quarter of the area of a ramp 0, 10, ..., 40 reads between 10 and 30."""
    ramp = (10 * torch.arange(5, dtype=torch.uint8)).view(1, 1, 5, 1).expand(1, 5, 5, 3)
    cut = processing.crop_area(ramp, 0.25)
    assert cut[0, 0, :, 0].tolist() == [10, 15, 20, 25, 30]
    assert torch.equal(cut[0, 0], cut[0, 4])
    assert torch.equal(processing.crop_area(ramp, 1.0), ramp)
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    assert torch.equal(processing.crop_area(white, 0.9), white)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(2, 8, 8, 3), r"view.front is float32 \[2, 8, 8, 3\]; OpenVLA needs uint8 \[N, H, W, 3\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"uint8 \[2, 3, 8, 8\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"uint8 \[8, 8, 3\]"),
    ],
)
def test_invalid_image_is_refused(images, said):
    with pytest.raises(ConfigError, match=said):
        check_images(images, "view.front", "OpenVLA")
