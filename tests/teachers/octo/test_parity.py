"""The whole model against the original: masks, embeddings, tokens, blocks, readouts, denoising and actions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

CASES_FOLDER = Path(__file__).parent / "golden" / "cases"

CASES = sorted(path.stem for path in CASES_FOLDER.glob("*.npz"))
WHOLE = "case_lang_w2"  # the case with intermediate values
# Largest absolute errors; flat pictures leave a residue that is flax's own (its variance is taken in one pass).
USUAL = {"readout": 1e-5, "eps": 1e-5, "x": 2e-4, "actions": 1e-5}
FLAT = {"readout": 5e-3, "eps": 1e-5, "x": 2e-4, "actions": 5e-3}


def limits(name):
    return FLAT if "near_constant" in name else USUAL


def close(found, expected, atol):
    torch.testing.assert_close(found.float(), expected.float(), atol=atol, rtol=0)


@pytest.fixture(scope="module")
def run(model, case):
    """run(name): the case, what went in and came out; computed once."""
    known = {}

    @torch.no_grad()
    def once(name):
        if name not in known:
            seen, task = case(name).inputs(model)
            known[name] = SimpleNamespace(case=case(name), seen=seen, task=task, out=model(seen, task))
        return known[name]

    return once


@pytest.fixture(scope="module")
def hooked(model, run):
    """What every module answered in the case with intermediate values."""
    found, handles = {}, []
    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(lambda m, i, out, name=name: found.__setitem__(name, out)))
    this = run(WHOLE)
    with torch.no_grad():
        model(this.seen, this.task)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", CASES)
def test_attention_mask(model, run, name):
    from rpd.teachers.octo.masks import allowed

    this = run(name)
    _, valid, layout = model.assemble(model.encode_images(this.seen, this.task.goals), this.seen, this.task)
    mask = (allowed(layout, model.device) & valid[:, None, :])[:, None]
    shape = this.case["mid/attention_mask_shape"].tolist()
    packed = this.case.arrays["mid/attention_mask_packed"]
    expected = np.unpackbits(packed, axis=-1)[..., : shape[-1]].astype(bool)
    assert list(mask.shape) == shape and np.array_equal(mask.numpy(), expected)


@pytest.mark.parametrize("name", CASES)
def test_readout(run, name):
    this = run(name)
    close(this.out["readout_action"], this.case["out/readout_action/tokens"], limits(name)["readout"])


def test_groups(model, run):
    this = run(WHOLE)
    _, valid, layout = model.assemble(model.encode_images(this.seen, this.task.goals), this.seen, this.task)
    names, sizes = zip(*layout.step, strict=True)
    steps = dict(zip(names, valid[:, 16:].unflatten(1, (2, -1)).split(sizes, 2), strict=True))
    for name in ("task_language", "obs_primary", "obs_wrist", "obs_task_language", "readout_action"):
        close(this.out[name], this.case[f"out/{name}/tokens"], 5e-5)
        here = valid[:, :16] if name == "task_language" else steps[name]
        assert torch.equal(here.float(), this.case[f"out/{name}/mask"].float())


def test_language(model, run):
    this = run(WHOLE)
    close(this.task.language, this.case["mid/task_tokenizers_language/hf_model/last_hidden_state"], 1e-5)
    close(model.projections["task_language"](this.task.language), this.case["mid/task_language_projection"], 1e-5)


@pytest.mark.parametrize("tokenizer", ["primary", "wrist"])
def test_stem(hooked, run, tokenizer):
    prefix = f"mid/observation_tokenizers_{tokenizer}/"
    recorded = run(WHOLE).case.under(prefix)
    close(hooked[f"stems.{tokenizer}"].unflatten(0, (2, 2)), recorded["tokens"], 5e-5)
    compared = 0
    for name, expected in recorded.items():
        module, _, part = name.removeprefix("SmallStem16_0/").partition("/")
        kind, _, index = module.partition("_")
        ours = {"StdConv": f"convs.{index}", "GroupNorm": f"norms.{index}", "embedding": "embedding"}.get(kind)
        if ours is None:
            continue
        stride = int(part[3:]) if part.startswith("sub") else 1
        found = hooked[f"stems.{tokenizer}.{ours}"][:1, :, ::stride, ::stride].permute(0, 2, 3, 1)
        # what a convolution adds up is not normalised yet: up to 50, and rounded accordingly
        close(found, expected, 5e-6 * float(expected.abs().max()) if kind == "StdConv" else 5e-5)
        compared += 1
    assert compared == 9


def test_blocks(hooked, run):
    for i in range(3):
        expected = run(WHOLE).case[f"mid/BlockTransformer_0/Transformer_0/encoderblock_{i}/stride13"]
        close(hooked[f"transformer.blocks.{i}"][:, ::13], expected, 5e-5)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_denoising_steps(model, run, name):
    """Every step from the recorded x before it; the noise of the last window position, as that is all we denoise."""
    from rpd.teachers.octo.schedule import Schedule, cosine, ddpm

    this, head, limit = run(name), model.head, limits(name)
    recorded = this.case["out/readout_action/tokens"][:, -1]
    noise, x = this.case["in/noise_steps"][..., -1, :], this.case["mid/denoise_x"][..., -1, :]
    eps = this.case["mid/denoise_eps"][..., -1, :]
    before = [this.case["in/noise_init"][..., -1, :], *x[:-1]]
    schedule = cosine(20)
    for i, t in enumerate(reversed(range(20))):
        found = head(head.embedding(recorded), before[i], torch.tensor([t]))
        if "near_constant" not in name:
            close(found, eps[i], limit["eps"])
        if t == 0:
            continue
        one = Schedule(*(table[t : t + 1] for table in schedule))  # a walk of one step, which adds no noise
        step = ddpm(lambda x, _, i=i: eps[i], one, before[i], noise[i : i + 1], 1e9) + schedule.beta[t].sqrt() * noise[i]
        close(step.clamp(-5, 5), x[i], limit["x"])


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_actions(model, run, name):
    this, atol = run(name), limits(name)["actions"]
    tokens = this.out["readout_action"][:, -1]
    init, noise = this.case["in/noise_init"][..., -1, :], this.case["in/noise_steps"][..., -1, :]
    close(model.head.denoise(tokens, init, noise), this.case["out/actions_normalised"], atol)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_actions_of_an_embodiment(model, run, name, monkeypatch):
    """With statistics: dimensions that the embodiment lacks stay noise, and the others are in its units."""
    from rpd.teachers.octo.statistics import ActionStatistics

    this, atol = run(name), limits(name)["actions"]
    statistics = ActionStatistics.model_validate({k: v.tolist() for k, v in this.case.under("in/stats/").items()})
    monkeypatch.setattr(model.head, "embodiment_dim", statistics.dim)
    tokens = this.out["readout_action"][:, -1]
    init, noise = this.case["in/noise_init"][..., -1, :], this.case["in/noise_steps"][..., -1, :]
    chunk = model.head.denoise(tokens, init, noise)
    gain, offset = statistics.affine(str(this.case.arrays["in/normalization_type"]))
    actions = chunk[..., : statistics.dim] * torch.from_numpy(gain).float() + torch.from_numpy(offset).float()
    close(actions, this.case["out/actions_unnormalised"], atol)
