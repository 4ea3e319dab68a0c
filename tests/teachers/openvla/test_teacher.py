"""The teacher around the model: what it answers, in which batches, what it refuses, and that it stays frozen."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from envs.errors import ConfigError, SpecMismatch
from teachers import registry
from teachers.base import Views
from teachers.openvla import teacher as module
from teachers.openvla.reading import distinct
from teachers.openvla.teacher import precision

FIELDS = {"mean", "std", "bin_logits", "log_prob"}


@pytest.fixture(scope="module")
def name(folder):
    return f"openvla:{folder},unnorm_key=tiny_bridge,bridge=metres"


@pytest.fixture(scope="module")
def make(name, spec):
    return lambda options="": registry.make(name + options, spec)


@pytest.fixture(scope="module")
def teacher(make):
    return make(",batch=4")


@pytest.fixture(scope="module")
def obs(golden):
    """Six observations of 64 x 96 pixels, the last two the same."""
    image = golden.image(0)
    images = [image, image.flip(1), image.flip(2), 255 - image, image.roll(20, 2), image.roll(20, 2)]
    return TensorDict({"view.front": torch.cat(images), "image.front": torch.zeros(6, 4, 4, 3, dtype=torch.uint8)}, [6])


@pytest.fixture(scope="module")
def said(golden):
    return [*golden.instructions, golden.instructions[0]]


@pytest.fixture
def action():
    return torch.rand(6, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_label(teacher, obs, said, action):
    answer = teacher.label(obs, said, action)
    assert set(answer.tensors()) == FIELDS | {"valid"} == teacher.provides | {"valid"}
    assert answer.mean.shape == answer.std.shape == (6, 7) and answer.bin_logits.shape == (6, 7, 255)
    assert answer.log_prob.shape == (6,) and answer.valid.all()
    assert all(t.isfinite().all() and not t.requires_grad for t in answer.tensors().values())
    assert answer.mean.abs().max() <= 1
    torch.testing.assert_close(answer.bin_logits.logsumexp(-1), torch.zeros(6, 7), atol=1e-5, rtol=0)
    assert teacher.bin_edges.shape == (7, 256) and (teacher.bin_edges.diff(dim=-1) > 0).all()
    assert "log_prob" not in teacher.label(obs, said).tensors()


def test_the_original_s_actions_in_the_environment(golden, teacher, checkpoint, spec):
    """Golden actions in metres and radians, over what 1 means in the environment."""
    for i in golden.samples:
        obs = TensorDict({"image.front": golden.image(i)}, [1])
        action = golden.of(i, "action[tiny_bridge]")
        expected = np.clip(action[:6] / np.array(spec.action.scale[:6]), -1, 1)
        done = teacher.act(obs, [golden.instructions[i]])[0]
        np.testing.assert_allclose(done[:6], expected, atol=1e-5)
        assert done[6] == (1 if action[6] >= 0.5 else -1)
        mean = teacher.label(obs, [golden.instructions[i]]).mean[0]
        assert torch.equal(mean[:6], done[:6]) and -1 < mean[6] < 1


def test_an_answer_does_not_depend_on_its_neighbours(teacher, obs, said, action, monkeypatch):
    together = teacher.label(obs, said, action)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = teacher.label(obs[order], [said[i] for i in order], action[order])
    for field, value in shuffled.tensors().items():
        torch.testing.assert_close(value, together.tensors()[field][order], atol=2e-4, rtol=1e-4)
    for i in (0, 2, 5):
        alone = teacher.label(obs[i : i + 1], said[i : i + 1], action[i : i + 1])
        for field, value in alone.tensors().items():
            torch.testing.assert_close(value, together.tensors()[field][i : i + 1], atol=2e-4, rtol=1e-4)


def test_score_of_its_own_action_is_what_it_decoded(folder, spec, obs, said):
    """Where the student does what the teacher would have done, the two paths are one."""
    far = spec.action.model_copy(update={"scale": (10.0,) * 6 + (1.0,)})  # nothing is clipped
    teacher = registry.make(f"openvla:{folder},unnorm_key=tiny_bridge,bridge=metres", spec.model_copy(update={"action": far}))
    action = teacher.act(obs, said)
    answer = teacher.label(obs, said, action)
    index = torch.searchsorted(teacher.bin_edges[:6], action[:, :6].T.contiguous(), right=True).T - 1
    width = teacher.bin_edges.diff(dim=-1)[torch.arange(6), index]
    density = answer.bin_logits[:, :6].gather(2, index[..., None])[..., 0] - width.log()
    sign = (1 + action[:, 6] * answer.mean[:, 6]) / 2
    torch.testing.assert_close(answer.log_prob, density.sum(1) + sign.log(), atol=1e-3, rtol=0)


def test_only_what_is_wanted(make, obs, said, action, monkeypatch):
    teacher = make()
    assert teacher.wanted == teacher.provides
    everything = teacher.label(obs, said, action)
    calls = []
    for path in ("greedy", "score"):
        original = getattr(module.decode, path)
        monkeypatch.setattr(module.decode, path, lambda *a, f=original, p=path: (calls.append(p), f(*a))[1])
    for wanted, paths in (
        ({"mean"}, ["greedy"]),
        ({"mean", "std"}, ["greedy"]),
        ({"bin_logits"}, ["greedy"]),
        ({"log_prob"}, ["score"]),
        ({"mean", "log_prob"}, ["score", "greedy"]),
    ):
        teacher.wanted = frozenset(wanted)
        answer = teacher.label(obs, said, action).tensors()
        assert set(answer) == wanted | {"mean", "valid"} and calls == paths
        for field in wanted:
            torch.testing.assert_close(answer[field], everything.tensors()[field], atol=1e-4, rtol=1e-4)
        assert answer["mean"].isfinite().all() and answer["mean"].abs().max() <= 1
        calls.clear()


def test_equal_images_are_seen_once(teacher, obs, said, monkeypatch):
    seen = []
    original = teacher.model.see
    monkeypatch.setattr(teacher.model, "see", lambda pixels: (seen.append(len(pixels)), original(pixels))[1], raising=False)
    answer = teacher.label(obs, said)
    assert seen == [4, 1]  # five kinds, in batches of four
    assert not torch.equal(answer.mean[4], answer.mean[5])  # told different things


def test_distinct():
    images = torch.tensor([3, 1, 3, 2, 1], dtype=torch.uint8).view(5, 1, 1, 1)
    first, which = distinct(images)
    assert first.tolist() == [0, 1, 3] and which.tolist() == [0, 1, 0, 2, 1]
    assert torch.equal(images[first][which], images)


def test_its_own_view_comes_before_the_student_s_image(teacher, obs):
    assert teacher.images(obs).shape == (6, 64, 96, 3)
    assert teacher.images(obs.exclude("view.front")).shape == (6, 4, 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.exclude("view.front", "image.front"), r"looks through camera 'front', but is shown no image: add --env"),
        (
            lambda o: TensorDict({"image.side": o["view.front"]}, [6]),
            r"looks through camera 'front', but is shown image.side: add --env.teacher-cameras front, or camera= to",
        ),
        (
            lambda o: TensorDict({"view.front": o["view.front"].float()}, [6]),
            r"view.front, shown to teacher openvla:.* is float32 \[6, 64, 96, 3\]; OpenVLA needs uint8 \[N, H, W, 3\]",
        ),
        (lambda o: TensorDict({"image.front": o["view.front"][..., :1]}, [6]), r"is uint8 \[6, 64, 96, 1\]"),
    ],
)
def test_images_refused(teacher, obs, said, change, message):
    with pytest.raises(ConfigError, match=message):
        teacher.label(change(obs), said)


def test_instructions_refused(teacher, obs, said):
    with pytest.raises(ConfigError, match="the instruction is empty"):
        teacher.label(obs, [*said[:5], " "])


def test_an_instruction_of_its_own(make, obs, golden):
    told = make(f",instruction={golden.instructions[3]}")
    expected = make().act(obs, [golden.instructions[3]] * 6)
    assert torch.equal(told.act(obs, [""] * 6), expected)


def test_a_crop(make, obs, said):
    assert not torch.equal(make(",crop=0.5").label(obs, said).std, make().label(obs, said).std)
    torch.testing.assert_close(make(",crop=1").label(obs, said).std, make().label(obs, said).std)


def test_the_cache_of_visual_tokens(make, obs, said):
    exact, cached, rough = make(), make(",cache=0"), make(",cache=0.2")
    changed = obs.clone()
    changed["view.front"][:, :20, :20] = 255
    for seen in (obs, changed, changed):
        torch.testing.assert_close(cached.label(seen, said).std, exact.label(seen, said).std, atol=1e-4, rtol=1e-4)
        rough.label(seen, said)
    assert (rough.label(changed, said).std - exact.label(changed, said).std).abs().max() > 1e-4
    rough.reset(torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(rough.label(changed, said).std, exact.label(changed, said).std, atol=1e-4, rtol=1e-4)


def test_frozen(make, obs, said, action):
    teacher = make()
    before = {k: v.clone() for k, v in teacher.weights().items()}
    answer = teacher.label(obs, said, action.requires_grad_())
    loss = (answer.mean - action).square().sum() + (answer.log_prob * action.sum(-1)).sum()
    loss.backward()
    torch.optim.SGD([action, *teacher.model.parameters()], 1.0).step()
    assert len(before) > 90 and all(torch.equal(before[k], v) for k, v in teacher.weights().items())
    assert not teacher.model.training and teacher.device.type == "cpu"


def test_statistics_without_a_mask(folder, spec, obs, said):
    other = registry.make(f"openvla:{folder},unnorm_key=tiny_human:7.0.0,bridge=env", spec)
    assert other.setup.unnorm_key == "tiny_human:7.0.0"
    assert other.act(obs, said).shape == (6, 7)


def test_needs(name, folder, tmp_path):
    assert registry.needs(name) == Views(("front",), 70)
    assert registry.needs(name + ",camera=wrist,image_size=96") == Views(("wrist",), 96)
    bridge = tmp_path / "b.yaml"
    bridge.write_text("{action: env, camera: side, image_size: 128, unnorm_key: tiny_bridge}")
    assert registry.needs(f"openvla:{folder},bridge={bridge}") == Views(("side",), 128)
    assert registry.needs(f"openvla:{folder},bridge={bridge},camera=front") == Views(("front",), 128)
    assert registry.needs("scripted:noisy") == Views()


def test_a_bridge_beside_the_weights(broken, spec):
    (broken / "bridge.yaml").write_text("{action: env, unnorm_key: tiny_bridge}")
    assert registry.make(f"openvla:{broken}", spec).setup.bridge.action is None
    (broken / "bridge.yaml").write_text("action: nonsense")
    with pytest.raises(ConfigError, match=r"vla/bridge.yaml: action: has to be env"):
        registry.make(f"openvla:{broken}", spec)


def test_a_bridge_that_is_shipped_for_a_model(broken, spec):
    known = broken.rename(broken.with_name("openvla-7b-finetuned-maniskill"))
    with pytest.raises(ConfigError, match=r"unknown unnorm_key of .*'maniskill_human:7.0.0'"):  # its bridge was found
        registry.make(f"openvla:{known}", spec)
    assert registry.needs(f"openvla:{known},unnorm_key=tiny_bridge") == Views(("render_camera",), 256)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openvla", r"teacher 'openvla' needs a checkpoint, e.g. openvla:runs/vla"),
        ("openvla:nowhere", r"nowhere: does not exist: expected a folder with an OpenVLA checkpoint"),
        ("openvla:{folder}", r"nothing says what its actions mean: add bridge=, one of env, libero"),
        ("openvla:{folder},bridge=env", r"has action statistics of 2 data sets: add unnorm_key=, one of tiny_bridge, tiny_h"),
        ("openvla:{folder},bridge=env,unnorm_key=tiny", r"unknown unnorm_key of .*: did you mean tiny_bridge"),
        ("openvla:{folder},bridge=env,batch=0", r"teacher openvla: batch=0: .*valid: integer, minimum 1"),
        ("openvla:{folder},bridge=env,dtype=int4", r"teacher openvla: dtype=int4: .*'int8' or 'nf4'"),
        ("openvla:{folder},bridge=env,cache=2", r"teacher openvla: cache=2: .*less than 1"),
        ("openvla:{folder},bridge=env,unnorm=x", r"unknown option of teacher openvla 'unnorm': did you mean unnorm_key"),
    ],
)
def test_names_refused(folder, spec, name, said):
    with pytest.raises(ConfigError, match=said) as error:
        registry.make(name.format(folder=folder), spec)
    assert "\n" not in str(error.value)


def test_an_environment_that_does_not_fit_is_refused_before_weights_are_read(broken, spec):
    for shard in broken.glob("*.safetensors"):
        shard.unlink()
    other = spec.model_copy(update={"action": spec.action.model_copy(update={"frame": "tool"})})
    with pytest.raises(SpecMismatch, match=r"teacher 'openvla:.*' does not fit environment: action frames differ"):
        registry.make(f"openvla:{broken},bridge=metres,unnorm_key=tiny_bridge", other)


def test_without_transformers(name, spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for loaded in [m for m in sys.modules if m.startswith("teachers.openvla.")]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(ConfigError, match=r"needs transformers, which is not installed: pip install 'rpd\[vla\]'"):
        registry.make(name, spec)


def test_precision():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert precision("auto", cpu) == (torch.float32, None) and precision("auto", gpu) == (torch.bfloat16, None)
    assert precision("bf16", cpu) == (torch.bfloat16, None) and precision("nf4", gpu) == (torch.bfloat16, "nf4")


def test_bfloat16(make, obs, said, action):
    answer = make(",dtype=bf16").label(obs, said, action)
    exact = make().label(obs, said, action)
    assert answer.mean.dtype == answer.bin_logits.dtype == torch.float32
    assert (answer.std - exact.std)[:, 0].abs().max() < 0.01  # later dimensions follow a token that may flip


def test_describe(name, spec):
    described = registry.describe(name, spec, "Pick up the cube")
    assert described.facts["parameters"] == "2,210,734 that are used"
    assert "robot take to pick up the cube?" in described.facts["prompt"]
    assert described.facts["statistics"] == "tiny_bridge (of 2)"
    x, gripper = described.actions[0], described.actions[-1]
    assert list(x.values()) == ["x", "-0.03, 0.03 m", "1 = 1 m", "-0.2364, 0.2382", "-7.88, 7.94"]
    assert list(gripper.values()) == ["gripper", "closes, opens", "1 opens, 0 closes", "-1, 1", "-3, 1"]
    reach = spec.model_copy(update={"task": "tabletop/Reach", "scene": True})
    assert registry.describe("scripted", reach, "x").facts == {"provides": "mean, std"}
