"""The teacher around the model: what it answers, in which batches, what it remembers and refuses, and that it stays frozen."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tensordict import TensorDict

from rpd.cli import main
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.teachers import registry
from rpd.teachers.base import CameraRequest
from rpd.teachers.octo.language import Words
from rpd.teachers.octo.model import Observation, Task

SAID = ["lift the cube", "open the drawer", "lift the cube"]


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    """Token ids of the instructions, in place of a tokenizer."""
    path = tmp_path_factory.mktemp("language") / "ids.json"
    path.write_text(json.dumps({"lift the cube": [9, 77, 120], "open the drawer": [5, 6, 7, 1]}))
    return path


@pytest.fixture(scope="module")
def name(folder, ids):
    return f"octo:{folder},unnorm_key=bridge_dataset,action_mapping=metres,language={ids},samples=4"


@pytest.fixture(scope="module")
def make(name, spec):
    return lambda options="": registry.make(name + options, spec)


@pytest.fixture(scope="module")
def teacher(make):
    return make(",wrist=hand,batch=2")


@pytest.fixture(scope="module")
def obs():
    """Three observations: a camera of the model's size, and one that is resized."""
    generator = torch.Generator().manual_seed(0)
    front, hand = (torch.randint(0, 256, (3, s, s, 3), dtype=torch.uint8, generator=generator) for s in (256, 144))
    return TensorDict({"view.front": front, "image.front": torch.zeros(3, 4, 4, 3, dtype=torch.uint8), "view.hand": hand}, [3])


def test_label(teacher, obs):
    answer = teacher.label(obs, SAID, torch.zeros(3, 7))
    assert set(answer.tensors()) == {"mean", "std", "samples", "valid"} and teacher.output_fields == {"mean", "std", "samples"}
    assert answer.samples.shape == (3, 4, 7) and answer.valid.all()
    assert all(t.isfinite().all() and not t.requires_grad for t in answer.tensors().values())
    assert answer.samples.abs().max() <= 1 and set(answer.samples[..., 6].flatten().tolist()) <= {-1.0, 1.0}
    torch.testing.assert_close(answer.mean, answer.samples.mean(1))
    torch.testing.assert_close(answer.std, answer.samples.std(1))


def test_original_s_samples_in_the_environment(make, case, spec, monkeypatch):
    """The recorded noise through the whole teacher: metres and radians over what 1 means in the environment."""
    this = case("case_lang_w2_samples3")
    teacher = make(",window=2,wrist=hand")
    language = teacher.model.embed_text(this["in/task/language_instruction/input_ids"],
                                        this["in/task/language_instruction/attention_mask"])  # fmt: skip
    teacher._embeddings["golden"] = language[0]
    init, noise = this["in/noise_init"][..., -1, :], this["in/noise_steps"][..., -1, :]
    head = teacher.model.head
    monkeypatch.setattr(head, "sample", lambda tokens, shape, generator: head.denoise(tokens, init, noise), raising=False)
    for t in range(2):
        image = {
            f"view.{camera}": this[f"in/observation/image_{key}"][:, t]
            for camera, key in (("front", "primary"), ("hand", "wrist"))
        }
        answer = teacher.label(TensorDict(image, [1]), ["golden"])
    actions = this.arrays["out/actions_unnormalised"][:, 0, 0]  # [samples, 7]
    expected = np.clip(actions[:, :6] / np.array(spec.action.scale[:6]), -1, 1)
    np.testing.assert_allclose(answer.samples[0, :, :6], expected, atol=1e-3)
    assert answer.samples[0, :, 6].tolist() == [1 if a >= 0.5 else -1 for a in actions[:, 6]]


def test_samples_do_not_depend_on_the_batch(make, obs):
    small, large = make(",batch=1"), make(",batch=32")
    torch.testing.assert_close(small.label(obs, SAID).samples, large.label(obs, SAID).samples, atol=1e-3, rtol=0)


def test_transformer_runs_once_and_an_instruction_is_embedded_once(make, obs, monkeypatch):
    teacher, calls = make(), []
    for module, method in ((teacher.model, "embed_text"), (teacher.model.transformer, "forward")):
        original = getattr(module, method)
        monkeypatch.setattr(module, method, lambda *a, f=original, m=method: (calls.append((m, len(a[0]))), f(*a))[1])
    for _ in range(2):
        teacher.label(obs, SAID)
    assert calls == [("embed_text", 2), ("forward", 3), ("forward", 3)]


def test_random_state(make, obs):
    teacher = make()
    teacher.seed(5)
    first = teacher.label(obs, SAID).samples
    state = teacher.state_dict()
    second = teacher.label(obs, SAID).samples
    assert not torch.equal(first, second)
    other = make()
    other.load_state_dict(state)
    assert torch.equal(other.label(obs, SAID).samples, second)
    other.seed(5)
    torch.rand(1)  # nobody else's numbers matter
    assert torch.equal(other.label(obs, SAID).samples, first)


def test_memory_is_part_of_the_state(make, obs):
    """A window and a chunk that is half done go on after a resume as if nothing had been."""
    teacher = make(",window=2,n_action_steps=2")
    for seen in (obs, obs.flip(0), obs):
        teacher.act(seen, SAID)
    other = make(",window=2,n_action_steps=2")
    other.load_state_dict({k: v.clone() for k, v in teacher.state_dict().items()})
    for seen in (obs, obs.flip(0)):
        assert torch.equal(other.act(seen, SAID), teacher.act(seen, SAID))
    teacher.reset(torch.ones(3, dtype=torch.bool))
    assert not teacher.history.count.any() and not teacher.chunks.count.any()


def test_acting(make, obs):
    assert make().act(obs, SAID).abs().max() <= 1
    teacher = make(",n_action_steps=3")
    chunk = [teacher.act(obs, SAID) for _ in range(3)]
    assert teacher.act(obs, SAID).shape == (3, 7) and not torch.equal(chunk[0], chunk[1])
    assert set(chunk[0][:, 6].tolist()) <= {-1.0, 1.0}
    averaging = make(",ensemble=0.1")
    assert all(averaging.act(obs, SAID).abs().max() <= 1 for _ in range(2))


def test_fewer_steps(make, obs):
    assert make(",ddim=5").label(obs, SAID).samples.isfinite().all()


def test_dimension_that_the_embodiment_lacks(broken, ids, spec, obs):
    values = json.loads((broken / "dataset_statistics.json").read_text())["bridge_dataset"]
    six = {k: v[:6] if isinstance(v, list) else v for k, v in values["action"].items()}
    (broken / "dataset_statistics.json").write_text(json.dumps({"action": six}))
    action = spec.action.model_copy(update={k: getattr(spec.action, k)[:6] for k in ("names", "units", "scale", "discrete")})
    teacher = registry.make(f"octo:{broken},action_mapping=env,language={ids}", spec.model_copy(update={"action": action}))
    assert teacher.model.head.embodiment_dim == 6
    assert teacher.label(obs, SAID).samples.shape == (3, 32, 6)


def test_head_without_chance(edit, ids, spec, obs):
    """MSE and L1 heads: one answer, so there are no samples."""
    from rpd.teachers.octo import flax

    folder = edit(lambda m: m["heads"].update(action={"name": "L1ActionHead", "kwargs": {"readout_key": "readout_action",
                                                                                          "use_map": False}}))  # fmt: skip
    file = folder / "300000/default/checkpoint"
    tree = {k: v for k, v in flax.read(file).items() if not k.startswith("heads")}
    tree |= {"heads_action/mean_proj/kernel": torch.randn(48, 7), "heads_action/mean_proj/bias": torch.zeros(7)}
    file.write_bytes(flax.write(tree))
    teacher = registry.make(f"octo:{folder},action_mapping=metres,unnorm_key=bridge_dataset,language={ids}", spec)
    assert teacher.output_fields == {"mean"}
    answer = teacher.label(obs, SAID)
    assert set(answer.tensors()) == {"mean", "valid"} and torch.equal(answer.mean, teacher.label(obs, SAID).mean)


# -- what it sees and is told


@torch.no_grad()
def test_missing_camera_is_a_camera_flagged_missing(model, case):
    seen, task = case("case_lang_w2").inputs(model)
    without = Observation({"image_primary": seen.images["image_primary"]}, seen.valid)
    flagged = Observation(seen.images, seen.valid, {"image_wrist": torch.zeros_like(seen.valid)})
    torch.testing.assert_close(model.readout(without, task), model.readout(flagged, task), atol=5e-6, rtol=0)
    assert (model.readout(without, task) - model.readout(seen, task)).abs().max() > 0.01


@torch.no_grad()
def test_goals_and_no_instruction(model, case):
    """Black goals are no goals; without any task nothing is NaN; a window that is padded is not a shorter window."""
    seen, task = case("case_lang_w1").inputs(model)
    bare = Task(task.language, torch.zeros_like(task.has_instruction))
    goal = bare._replace(goals={"image_primary": torch.full((1, 256, 256, 3), 200, dtype=torch.uint8)})
    answers = [model.readout(seen, t) for t in (task, task._replace(goals={}), bare, goal)]
    assert torch.equal(answers[0], answers[1]) and all(a.isfinite().all() for a in answers)
    assert (answers[2] - answers[0]).abs().max() > 1e-3 and (answers[3] - answers[2]).abs().max() > 1e-3
    twice = {key: image.expand(-1, 2, -1, -1, -1) for key, image in seen.images.items()}
    padded = model.readout(Observation(twice, torch.tensor([[False, True]])), task)
    assert (padded - answers[0]).abs().max() > 1e-3


@torch.no_grad()
def test_rows_that_are_masked_differently(model, case):
    """A batch of which only one row lacks a camera answers as its rows do alone."""
    seen, task = case("case_lang_w2").inputs(model)
    mixed = Observation(seen.images, seen.valid, {"image_wrist": torch.tensor([[True, True], [False, False]])})
    together = model.readout(mixed, task)
    for i in range(2):
        one = Observation({k: v[i : i + 1] for k, v in seen.images.items()}, seen.valid[:1],
                          {"image_wrist": mixed.images_valid["image_wrist"][i : i + 1]})  # fmt: skip
        alone = model.readout(one, Task(task.language[i : i + 1], task.has_instruction[:1]))
        torch.testing.assert_close(alone[0], together[i], atol=5e-6, rtol=0)


def test_empty_instruction_is_no_instruction(make, obs):
    told = []
    teacher = make()
    original = teacher.model.readout
    teacher.model.readout = lambda seen, task: (told.extend(task.has_instruction.tolist()), original(seen, task))[1]
    teacher.label(obs, ["lift the cube", "", " "])
    assert told == [True, False, False]


def test_instruction_of_its_own(make, obs):
    one, other = make(",instruction=open the drawer"), make()
    assert torch.equal(one.label(obs, [""] * 3).samples, other.label(obs, ["open the drawer"] * 3).samples)


def test_embeddings_in_place_of_t5(make, folder, spec, obs, tmp_path):
    teacher = make()
    teacher.label(obs, SAID)
    save_file({text: teacher._embeddings[text].contiguous() for text in set(SAID)}, tmp_path / "e.safetensors")
    name = f"octo:{folder},unnorm_key=bridge_dataset,action_mapping=metres,samples=4,language={tmp_path / 'e.safetensors'}"
    other, again = registry.make(name, spec), make()
    torch.testing.assert_close(other.label(obs, SAID).samples, again.label(obs, SAID).samples, atol=1e-5, rtol=0)
    save_file({"lift the cube": torch.zeros(3, 48)}, tmp_path / "e.safetensors")
    with pytest.raises(ConfigError, match=r"the embedding of 'lift the cube' is \[3, 48\], not \[16, 48\]"):
        registry.make(name, spec).label(obs, ["lift the cube"] * 3)


def test_tokenizer_in_a_folder(folder, spec, obs, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 2, "lift": 9, "the": 77, "cube": 120}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        assert Words(str(name), None, "octo:x").ids("lift the cube") == [9, 77, 120, 1]
    assert Words("nowhere", None, "octo:x").ids("") == [1]


def test_tokenizer_of_another_model(folder, spec, obs, tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<s>": 1, "</s>": 2}, "<s>")).save(str(tmp_path / "tokenizer.json"))
    name = f"octo:{folder},unnorm_key=bridge_dataset,action_mapping=metres"
    with pytest.raises(ConfigError, match=r"tokenizer.json: '</s>' has id 2, and T5's has 1: the tokenizer of another model"):
        registry.make(f"{name},tokenizer={tmp_path}", spec)


@pytest.mark.parametrize("token", [-1, 10**6, 2**62])
def test_ids_without_an_embedding(folder, spec, obs, token, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps({"lift the cube": [token]}))
    teacher = registry.make(
        f"octo:{folder},unnorm_key=bridge_dataset,action_mapping=metres,language={tmp_path / 'ids.json'}", spec
    )
    with pytest.raises(ConfigError, match=rf"an instruction has token id {token}, and the model has \d+ embeddings"):
        teacher.act(obs, ["lift the cube"] * 3)


def test_no_tokenizer(folder, spec, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = f"octo:{folder},unnorm_key=bridge_dataset,action_mapping=metres"
    with pytest.raises(
        ConfigError, match=r"the tokenizer is missing \(google-t5/t5-base: .*\): put the tokenizer.json of"
    ) as e:
        registry.make(name, spec)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json, which a T5 tokenizer needs"):
        registry.make(f"{name},tokenizer={tmp_path}", spec)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer.json: not a tokenizer"):
        registry.make(f"{name},tokenizer={tmp_path}", spec)
    for content in ("[", '{"a": "b"}', '{"a": [true]}', "[1]"):
        (tmp_path / "ids.json").write_text(content)
        with pytest.raises(ConfigError, match=r"must be JSON like {'lift the cube': \[3, 7, 1\]}"):
            registry.make(f"{name},language={tmp_path / 'ids.json'}", spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.exclude("view.front", "image.front"),
         "needs camera 'front', but the observations have view.hand: add --env"),
        (lambda o: TensorDict({"view.front": o["view.front"].float()}, [3]),
         r"view.front, shown to teacher octo:.* is float32 \[3, 256, 256, 3\]; Octo needs uint8 \[N, H, W, 3\]"),
    ],
)  # fmt: skip
def test_images_refused(teacher, obs, change, message):
    with pytest.raises(ConfigError, match=message):
        teacher.label(change(obs), SAID)


def test_environments_that_come_and_go(make, obs):
    teacher = make(",window=2")
    teacher.label(obs, SAID)
    with pytest.raises(ConfigError, match=r"but 2 were passed"):
        teacher.label(obs[:2], SAID[:2])


def test_needs(name):
    assert registry.camera_request(name) == CameraRequest(("front",), 256)
    assert registry.camera_request(name + ",camera=side,wrist=hand,image_size=96") == CameraRequest(("side", "hand"), 96)


def test_environment_that_does_not_fit(name, spec):
    other = spec.model_copy(update={"action": spec.action.model_copy(update={"frame": "world"})})
    with pytest.raises(SpecMismatch, match="action frames differ"):
        registry.make(name, other)


def test_frozen(make, obs):
    teacher = make()
    before = {k: v.clone() for k, v in teacher.weights().items()}
    action = torch.zeros(3, 7, requires_grad=True)
    (teacher.label(obs, SAID, action).mean - action).square().sum().backward()
    torch.optim.SGD([action, *teacher.model.parameters()], 1.0).step()
    assert len(before) > 90 and all(torch.equal(before[k], v) for k, v in teacher.weights().items())
    assert not teacher.model.training and teacher.device.type == "cpu"


def test_show(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    assert main.main(["teacher", "show", name + ",crop=0.9", "--task", "tabletop/PickCube"]) == 0
    shown = capsys.readouterr().out
    for words in ("300000/default/checkpoint, 3 MB of msgpack", "DiffusionHead, 4 actions of 7 numbers, denoised in 20 steps",
                  "view.front or image.front, rendered at 256 x 256", "middle 90% of the area, resized to 256 x 256",
                  "not shown, as in parts of its training (128 x 128)", "'pick up the red cube",
                  "1 of at most 10 time steps", "4 samples", "bridge_dataset, normal",
                  "1 opens, 0 closes, from 0.5"):  # fmt: skip
        assert words in shown, words


def test_without_the_packages(name, spec, monkeypatch):
    for package in (
        "rpd.teachers.octo.flax",
        "rpd.teachers.octo.checkpoint",
        "rpd.teachers.octo.setup",
        "rpd.teachers.octo",
        "msgpack",
    ):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ConfigError, match=r"teacher octo needs msgpack, which is not installed: pip install -e '\.\[vla\]'"):
        registry.make(name, spec)
