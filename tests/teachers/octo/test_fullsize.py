"""A model of octo-small-1.5's size, whose weights and inputs a recipe makes, against the original's numbers."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rpd.teachers.octo import weights
from rpd.teachers.octo.config import parse_config
from rpd.teachers.octo.model import Observation, Task
from rpd.teachers.octo.param_names import T5, from_original, original

GOLDEN = Path(__file__).parent / "golden"
SHAPES = json.loads((GOLDEN / "shapes_octo-small-1.5.json").read_text())


def recipe(path, shape):
    """The weights of a parameter of the original's tree."""
    r = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape, np.float32)
    module, leaf = path.split("/")[-2:]
    if leaf == "kernel":
        return r * np.float32(0.2) if module == "time_preprocess" else r / np.float32(np.sqrt(np.prod(shape[:-1])))
    return {"bias": lambda: 0.1 * r, "scale": lambda: 1 + 0.1 * r}.get(leaf, lambda: 0.3 * r)().astype(np.float32)


class Recipe:
    """A source of tensors; T5's are only shapes, as its embeddings are given."""

    def _path(self, name):
        return original(name, "action")

    def has(self, name):
        return self._path(name) in SHAPES["shapes"]

    def shape(self, name):
        path = self._path(name)
        return list(from_original(path, torch.empty(SHAPES["shapes"][path], device="meta")).shape)

    def take(self, name):
        path = self._path(name)
        return from_original(path, torch.from_numpy(recipe(path, SHAPES["shapes"][path]))).contiguous()


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    config = parse_config({"model": SHAPES["model_config"]}, "octo-small-1.5")
    model = weights.build(config, Recipe(), GOLDEN)
    del model.t5
    state = {name: Recipe().take(name) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def test_every_parameter_has_its_place():
    """The published sizes: 27 042 060 parameters of the policy, 109 628 544 of T5."""
    model = weights.build(parse_config({"model": SHAPES["model_config"]}, "octo-small-1.5"), Recipe(), GOLDEN)
    ours = {original(name, "action"): list(p.shape) for name, p in model.named_parameters()}
    assert ours.keys() == SHAPES["shapes"].keys()
    assert sum(p.numel() for p in model.parameters()) == 136_670_604 == SHAPES["total"]
    assert sum(np.prod(s) for p, s in ours.items() if p.startswith(T5)) == 109_628_544


@pytest.mark.slow
def test_parity(model):
    golden = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "fullsize_octo_small_synth.npz").items() if v.ndim}
    checks = dict(np.load(GOLDEN / "fullsize_octo_small_synth.npz"))
    seed = int(checks["meta/seed"])
    images = {}
    for key, s, size in (("image_primary", seed, 16), ("image_wrist", seed + 1, 8)):
        small = np.random.default_rng(s).integers(0, 256, (1, 2, size, size, 3), np.uint8)
        images[key] = torch.from_numpy(small.repeat(16, 2).repeat(16, 3))
    assert int(images["image_primary"].sum()) == checks["check/image_primary_sum"]
    assert float(model.stems["primary"].convs[0].weight.sum()) == pytest.approx(
        float(checks["check/first_stdconv_kernel_sum"]), abs=1e-3
    )
    language = np.random.default_rng(seed + 2).standard_normal((1, 16, 768), np.float32) * np.float32(0.2)
    out = model(
        Observation(images, torch.ones(1, 2, dtype=torch.bool)),
        Task(torch.from_numpy(language), torch.ones(1, dtype=torch.bool)),
    )
    readout = out["readout_action"]
    found = {
        "out/readout_action/tokens": (readout, 1e-5),
        "out/task_language/tokens": (out["task_language"], 5e-5),
        "out/obs_primary/tokens_stride17": (out["obs_primary"][:, :, ::17], 5e-5),
        "out/obs_wrist/tokens_stride17": (out["obs_wrist"][:, :, ::17], 5e-5),
    }
    init, noise = golden["in/noise_init"][:, -1], golden["in/noise_steps"][:, :, -1]
    found["out/actions_normalised"] = model.head.denoise(readout[:, -1], init, noise), 2e-3  # most of them touch the clip
    for name, (value, atol) in found.items():
        torch.testing.assert_close(value, golden[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
    for i, t in enumerate(reversed(range(20))):
        before = init if i == 0 else golden["mid/denoise_x"][i - 1][:, -1]
        eps = model.head(model.head.embedding(readout[:, -1]), before, torch.tensor([t]))
        torch.testing.assert_close(eps, golden["mid/denoise_eps"][i][:, -1], atol=2e-5, rtol=0)
