"""The teacher around the model: what it answers, in which batches, what it refuses, and that it stays frozen."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.teachers import registry
from rpd.teachers.base import CameraRequest
from rpd.teachers.openvla import teacher as module
from rpd.teachers.openvla.prefill import distinct
from rpd.teachers.openvla.teacher import precision

FIELDS = {"mean", "std", "bin_logits", "log_prob"}


@pytest.fixture(scope="module")
def name(folder):
    return f"openvla:{folder},unnorm_key=tiny_bridge,action_mapping=metres"


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


def test_model_that_answers_in_words_is_refused(teacher, obs, said, action, monkeypatch):
    """One that was not trained on actions, or on other prompts; one action token is enough to go on."""
    logits, words = teacher.model.logits, 7 * [True]

    def speaks(hidden):
        made = logits(hidden)
        made[..., 5] = torch.where(torch.tensor(words.pop(0)), 1e4, made[..., 5])
        return made

    monkeypatch.setattr(teacher.model, "logits", speaks)
    for answer in (teacher.label, teacher.act):
        words[:] = 14 * [True]
        with pytest.raises(ConfigError, match=r"outputs text \(first .*trained with other prompts than prompt=openvla"):
            answer(obs, said)
    words[:] = 14 * [True]
    words[3] = False
    teacher.act(obs[:4], said[:4])


def test_label(teacher, obs, said, action):
    answer = teacher.label(obs, said, action)
    assert set(answer.tensors()) == FIELDS | {"valid"} == teacher.output_fields | {"valid"}
    assert answer.mean.shape == answer.std.shape == (6, 7) and answer.bin_logits.shape == (6, 7, 255)
    assert answer.log_prob.shape == (6, 7) and answer.valid.all()
    assert all(t.isfinite().all() and not t.requires_grad for t in answer.tensors().values())
    assert answer.mean.abs().max() <= 1
    torch.testing.assert_close(answer.bin_logits.logsumexp(-1), torch.zeros(6, 7), atol=1e-5, rtol=0)
    assert teacher.bin_edges.shape == (7, 256) and (teacher.bin_edges.diff(dim=-1) > 0).all()
    assert "log_prob" not in teacher.label(obs, said).tensors()


def test_original_s_actions_in_the_environment(golden, teacher, checkpoint, spec):
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


def test_answer_does_not_depend_on_its_neighbours(teacher, obs, said, action, monkeypatch):
    together = teacher.label(obs, said, action)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = teacher.label(obs[order], [said[i] for i in order], action[order])
    for field, value in shuffled.tensors().items():
        torch.testing.assert_close(value, together.tensors()[field][order], atol=2e-4, rtol=1e-4)
    for i in (0, 2, 5):
        alone = teacher.label(obs[i : i + 1], said[i : i + 1], action[i : i + 1])
        for field, value in alone.tensors().items():
            torch.testing.assert_close(value, together.tensors()[field][i : i + 1], atol=2e-4, rtol=1e-4)


def test_score_of_decoded_action_equals_greedy_output(folder, spec, obs, said):
    """Where the student does what the teacher would have done, the two paths are one."""
    far = spec.action.model_copy(update={"scale": (10.0,) * 6 + (1.0,)})  # nothing is clipped
    teacher = registry.make(
        f"openvla:{folder},unnorm_key=tiny_bridge,action_mapping=metres", spec.model_copy(update={"action": far})
    )
    action = teacher.act(obs, said)
    answer = teacher.label(obs, said, action)
    index = torch.searchsorted(teacher.bin_edges[:6], action[:, :6].T.contiguous(), right=True).T - 1
    width = teacher.bin_edges.diff(dim=-1)[torch.arange(6), index]
    density = answer.bin_logits[:, :6].gather(2, index[..., None])[..., 0] - width.log()
    sign = (1 + action[:, 6] * answer.mean[:, 6]) / 2
    torch.testing.assert_close(answer.log_prob, torch.cat([density, sign.log()[:, None]], 1), atol=1e-3, rtol=0)


def test_only_requested_fields_are_computed(make, obs, said, action, monkeypatch):
    teacher = make()
    assert teacher.requested_fields == teacher.output_fields
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
        teacher.requested_fields = frozenset(wanted)
        answer = teacher.label(obs, said, action).tensors()
        assert set(answer) == wanted | {"mean", "valid"} and calls == paths
        for field in wanted:
            torch.testing.assert_close(answer[field], everything.tensors()[field], atol=1e-4, rtol=1e-4)
        assert answer["mean"].isfinite().all() and answer["mean"].abs().max() <= 1
        calls.clear()


def test_equal_images_are_encoded_once(teacher, obs, said, monkeypatch):
    seen = []
    encode = teacher.model.encode_images
    counted = lambda pixels: (seen.append(len(pixels)), encode(pixels))[1]  # noqa: E731
    monkeypatch.setattr(teacher.model, "encode_images", counted, raising=False)
    answer = teacher.label(obs, said)
    assert seen == [4, 1]  # five kinds, in batches of four
    assert not torch.equal(answer.mean[4], answer.mean[5])  # told different things


def test_distinct():
    images = torch.tensor([3, 1, 3, 2, 1], dtype=torch.uint8).view(5, 1, 1, 1)
    first, which = distinct(images)
    assert first.tolist() == [0, 1, 3] and which.tolist() == [0, 1, 0, 2, 1]
    assert torch.equal(images[first][which], images)


def test_own_view_comes_before_the_student_s_image(teacher, obs):
    assert teacher.images(obs).shape == (6, 64, 96, 3)
    assert teacher.images(obs.exclude("view.front")).shape == (6, 4, 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o: o.exclude("view.front", "image.front"),
            r"needs camera 'front', but the observations have no image: add --env",
        ),
        (
            lambda o: TensorDict({"image.side": o["view.front"]}, [6]),
            r"needs camera 'front', but the observations have image.side: add --env.teacher-cameras front, or camera= to",
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


def test_instruction_of_its_own(make, obs, golden):
    told = make(f",instruction={golden.instructions[3]}")
    expected = make().act(obs, [golden.instructions[3]] * 6)
    assert torch.equal(told.act(obs, [""] * 6), expected)


def test_a_crop(make, obs, said):
    assert not torch.equal(make(",crop=0.5").label(obs, said).std, make().label(obs, said).std)
    torch.testing.assert_close(make(",crop=1").label(obs, said).std, make().label(obs, said).std)


def test_augmentation_in_folder_name_requires_crop_option(folder, obs, said, spec, tmp_path):
    """It does not decide: a person or the action mapping has to. openvla's run_libero_eval.py stops there, too."""
    named = tmp_path / "openvla-7b+data+b16+lr-0.0005--image_aug"
    shutil.copytree(folder, named)
    (tmp_path / "link").symlink_to(named)
    options = "unnorm_key=tiny_bridge,action_mapping="
    for name in (named, tmp_path / "link"):
        with pytest.raises(ConfigError, match=r"its name has 'image_aug', .*: add crop=0.9 for their middle, or crop=1 for"):
            registry.camera_request(f"openvla:{name},{options}metres")
    whole = registry.make(f"openvla:{named},{options}metres,crop=1", spec)
    assert torch.equal(whole.act(obs, said), registry.make(f"openvla:{folder},{options}metres", spec).act(obs, said))
    action_mapping = tmp_path / "action_mapping.yaml"
    action_mapping.write_text("action: env\ncrop: 0.9\n")
    for asked, words in (
        (f"{options}metres,crop=1", "the whole image,"),
        (f"{options}{action_mapping}", "middle 90% of the area"),
    ):
        assert words in registry.describe(f"openvla:{named},{asked}", spec, "lift").facts["processing"]


@pytest.mark.parametrize("name", ["openvla-v01-7b", "vla"])
def test_style_of_the_prompt_is_shown(folder, spec, tmp_path, name):
    shutil.copytree(folder, tmp_path / name)
    called = f"openvla:{tmp_path / name},unnorm_key=tiny_bridge,action_mapping=metres"
    prompt = registry.describe(called, spec, "lift").facts["prompt"]
    assert "'In: What" in prompt and prompt.endswith("as openvla prompts (llm_backbone_id llama2-7b-pure)")
    prompt = registry.describe(called + ",prompt=v01", spec, "lift").facts["prompt"]
    assert "A chat between" in prompt and prompt.endswith("as v01 prompts (prompt=)")


def test_cache_of_visual_tokens(make, obs, said):
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
    loss = (answer.mean - action).square().sum() + (answer.log_prob * action).sum()
    loss.backward()
    torch.optim.SGD([action, *teacher.model.parameters()], 1.0).step()
    assert len(before) > 90 and all(torch.equal(before[k], v) for k, v in teacher.weights().items())
    assert not teacher.model.training and teacher.device.type == "cpu"


def test_statistics_without_a_mask(folder, spec, obs, said):
    other = registry.make(f"openvla:{folder},unnorm_key=tiny_human:7.0.0,action_mapping=env", spec)
    assert other.setup.unnorm_key == "tiny_human:7.0.0"
    assert other.act(obs, said).shape == (6, 7)


def test_needs(name, folder, tmp_path):
    assert registry.camera_request(name) == CameraRequest(("front",), 70)
    assert registry.camera_request(name + ",camera=wrist,image_size=96") == CameraRequest(("wrist",), 96)
    action_mapping = tmp_path / "b.yaml"
    action_mapping.write_text("{action: env, camera: side, image_size: 128, unnorm_key: tiny_bridge}")
    assert registry.camera_request(f"openvla:{folder},action_mapping={action_mapping}") == CameraRequest(("side",), 128)
    assert registry.camera_request(f"openvla:{folder},action_mapping={action_mapping},camera=front") == CameraRequest(
        ("front",), 128
    )
    assert registry.camera_request("scripted:noisy") == CameraRequest()


def test_action_mapping_file_in_checkpoint_folder(broken, spec):
    (broken / "action_mapping.yaml").write_text("{action: env, unnorm_key: tiny_bridge}")
    assert registry.make(f"openvla:{broken}", spec).setup.action_mapping.action is None
    (broken / "action_mapping.yaml").write_text("action: nonsense")
    with pytest.raises(ConfigError, match=r"vla/action_mapping.yaml: action: must be env"):
        registry.make(f"openvla:{broken}", spec)


@pytest.mark.parametrize("name", ["openvla-7b-finetuned-maniskill", "libero", "metres"])
def test_folder_s_name_is_no_action_mapping(broken, name):
    with pytest.raises(ConfigError, match="the units of its actions are unknown: add action_mapping="):
        registry.camera_request(f"openvla:{broken.rename(broken.with_name(name))},unnorm_key=tiny_bridge")


def test_action_mapping_that_is_shipped_for_a_data_set(broken, edit):
    statistics = json.loads((broken / "dataset_statistics.json").read_text())
    edit("dataset_statistics.json", **{"maniskill_human:7.0.0": statistics["tiny_human:7.0.0"]})
    assert registry.camera_request(f"openvla:{broken}") == CameraRequest(("render_camera",), 256)
    with pytest.raises(ConfigError, match="the units of its actions are unknown: add action_mapping="):
        registry.camera_request(f"openvla:{broken},unnorm_key=tiny_bridge")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openvla", r"teacher 'openvla' needs a checkpoint, e.g. openvla:runs/vla"),
        ("openvla:nowhere", r"nowhere: does not exist: expected a folder with an OpenVLA checkpoint"),
        ("openvla:{folder}", r"the units of its actions are unknown: add action_mapping=, one of droid, env, libero"),
        (
            "openvla:{folder},action_mapping=env",
            r"has action statistics of 2 data sets: add unnorm_key=, one of tiny_bridge, tiny_h",
        ),
        ("openvla:{folder},action_mapping=env,unnorm_key=tiny", r"unknown unnorm_key of .*: did you mean tiny_bridge"),
        ("openvla:{folder},action_mapping=env,batch=0", r"teacher openvla: batch=0: .*valid: integer, minimum 1"),
        ("openvla:{folder},action_mapping=env,dtype=int4", r"teacher openvla: dtype=int4: .*'int8' or 'nf4'"),
        ("openvla:{folder},action_mapping=env,cache=2", r"teacher openvla: cache=2: .*less than 1"),
        (
            "openvla:{folder},action_mapping=env,unnorm=x",
            r"unknown option of teacher openvla 'unnorm': did you mean unnorm_key",
        ),
    ],
)
def test_names_refused(folder, spec, name, said):
    with pytest.raises(ConfigError, match=said) as error:
        registry.make(name.format(folder=folder), spec)
    assert "\n" not in str(error.value)


def test_environment_that_does_not_fit_is_refused_before_weights_are_read(broken, spec):
    for shard in broken.glob("*.safetensors"):
        shard.unlink()
    other = spec.model_copy(update={"action": spec.action.model_copy(update={"frame": "tool"})})
    with pytest.raises(SpecMismatch, match=r"teacher 'openvla:.*' does not fit environment: action frames differ"):
        registry.make(f"openvla:{broken},action_mapping=metres,unnorm_key=tiny_bridge", other)


def test_without_transformers(name, spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for loaded in [m for m in sys.modules if m.startswith("rpd.teachers.openvla.")]:
        monkeypatch.delitem(sys.modules, loaded)
    with pytest.raises(ConfigError, match=r"needs transformers, which is not installed: pip install -e '\.\[vla\]'"):
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
    assert described.facts["parameters"] == "2,210,734 in use"
    assert "robot take to pick up the cube?" in described.facts["prompt"]
    assert described.facts["statistics"] == "tiny_bridge (of 2)"
    image, prompt = described.inputs
    assert "rendered at 70 x 70" in image.source and "resize-naive to 70 pixels" in image.sent
    assert prompt.sent == described.facts["prompt"]
    x, gripper = (list(row.values()) for row in (described.actions[0], described.actions[-1]))
    assert x[1:3] == ["-0.236, 0.000873, 0.238", "-0.236, 0.000873, 0.238 m"]
    assert x[3:6] == ["-7.88, 0.0291, 7.94", "-0.03, 0, 0.03 m", "1 = 1 m"]
    assert gripper[1:3] == ["-1, 0, 1", "-1 closes, 0 closes, 1 opens"]
    assert gripper[3:] == ["-3, -1, 1", "-1 closes, 0 opens, 1 opens", "1 opens, 0 closes, from 0.5", "-0.1977 to 0.584"]
    assert described.refusal is None
