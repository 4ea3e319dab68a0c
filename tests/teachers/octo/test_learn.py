"""What an Octo learns with: a few images by heart, eyes alone, a given model, and what is written."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rpd.envs.errors import ConfigError
from rpd.envs.privileged_state import ManipulationState
from rpd.teachers.octo import weights
from rpd.teachers.octo.checkpoint import read_checkpoint
from rpd.teachers.octo.init_model import Size, new_checkpoint, read_size
from rpd.teachers.octo.language import Words, pad
from rpd.teachers.octo.model import Observation, Task
from rpd.teachers.octo.statistics import ActionStatistics
from rpd.teachers.octo.trainable import TrainableOcto
from rpd.teachers.vla import lora
from rpd.teachers.vla.trainable import Minibatch

STATISTICS = {"mine": {"action": {"mean": [0.1, 0.0], "std": [0.4, 1.0], "mask": [True, False]}}}
SAID = ["go left", "go right", ""]
TINY = Size(
    cameras={"image_primary": 32, "image_wrist": 16}, width=32, layers=1, heads=2, mlp=64, features=(32,) * 4, stem_width=32,
    t5={"d_model": 16, "num_heads": 2, "num_layers": 1, "d_kv": 8, "d_ff": 32}, goal_images=False, max_horizon=1,
    head={"action_horizon": 2, "hidden_dim": 64, "num_blocks": 1, "n_diffusion_samples": 8},
)  # fmt: skip


def learner(**options):
    torch.manual_seed(0)
    checkpoint, model = new_checkpoint("new", SAID, STATISTICS, TINY, 2, {"action_mapping.yaml": b"action: env\n"})
    return TrainableOcto(checkpoint, model, "mine", **options)


def batch(scene=None):
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    actions = torch.tensor([[[-0.5, 1.0], [0.0, 1.0]], [[0.5, -1.0], [0.5, -1.0]], [[0.0, 1.0], [9.0, 9.0]]])
    return Minibatch(images, SAID, actions, torch.tensor([[True, True], [True, True], [True, False]]), scene)


def still():
    """A scene without anything in it, but with quaternions."""
    scene = ManipulationState.empty(3)
    ManipulationState.get(scene, "tcp_quat")[:, 0] = ManipulationState.get(scene, "object_quat")[:, 0] = 1.0
    return scene


def test_overfits_one_batch():
    made, shown = learner(scene_weight=0.1), batch(still())
    optimizer = torch.optim.AdamW(made.trainable().values(), 5e-3)
    before = made.loss(shown)["action"].item()
    for _ in range(200):
        optimizer.zero_grad()
        losses = made.loss(shown)
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"action", "scene"} and losses["scene"] < 0.01
    assert before > 1.5 and losses["action"] < 0.8  # of standard normal noise in 2 dimensions: 2
    assert (made.act(shown.images, SAID) - shown.actions[:, 0]).abs().mean() < 0.4  # of the whole range 2


def test_masked_rows_have_no_gradient():
    made, shown = learner(), batch()
    shown.counts[2] = False
    torch.manual_seed(1)
    loss = made.loss(shown)
    shown.actions[2] = -9.0
    torch.manual_seed(1)
    assert made.loss(shown) == loss


def test_normalize_by_hand():
    statistics = ActionStatistics.model_validate(STATISTICS["mine"]["action"])
    assert statistics.normalize([[0.5, -1.0]]).round(6).tolist() == [[1.0, -1.0]]
    assert ActionStatistics(mean=[0.5], std=[0.0]).normalize([0.5]).tolist() == [0.0]


def test_eyes_can_learn_alone():
    made, shown = learner(scene_weight=1.0), batch(still())
    losses = made.scene_loss(shown)
    assert losses == {"scene": made.loss(shown)["scene"]}
    losses["scene"].backward()
    touched = {name.split(".")[1] for name, p in made.trainable().items() if p.grad is not None and p.grad.any()}
    assert touched == {"stems", "projections", "positions", "weight", "bias"}  # and the scene head


def chunks(checkpoint, model):
    """Samples of the first image."""
    words = Words(checkpoint.tokenizer, None, "octo:x")
    ids, mask = pad([words.ids(SAID[0])], model.config.max_tokens)
    seen = Observation({"image_primary": batch().images[:1, None]}, torch.ones(1, 1, dtype=torch.bool))
    with torch.no_grad():
        task = Task(model.embed_text(ids, mask), torch.ones(1, dtype=torch.bool))
        return model.head.sample(model.readout(seen, task), (4,), torch.Generator().manual_seed(0))


def test_export_gives_the_same_samples(tmp_path):
    made = learner(scene_weight=1.0, dtype=torch.float32)
    made.export(tmp_path / "octo")
    checkpoint = read_checkpoint(tmp_path / "octo", "octo")
    assert (
        dict(checkpoint.cameras) == {"image_primary": (32, 32)} and checkpoint.files["action_mapping.yaml"] == b"action: env\n"
    )
    model = weights.load(checkpoint, tmp_path / "octo")
    assert model.config == made.model.config and made.model.t5.config.vocab_size < 400
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in made.model.named_parameters())
    torch.testing.assert_close(chunks(checkpoint, model), chunks(made.checkpoint, made.model), atol=1e-4, rtol=0)


def test_bfloat16_spares_the_head(tmp_path):
    made = learner()
    made.export(tmp_path / "octo")
    stored = load_file(tmp_path / "octo" / "model.safetensors")
    assert {str(p.dtype) for n, p in stored.items() if n.startswith("head.")} == {"torch.float32"}
    assert {str(p.dtype) for n, p in stored.items() if not n.startswith("head.")} == {"torch.bfloat16"}
    checkpoint = read_checkpoint(tmp_path / "octo", "octo")
    model = weights.load(checkpoint, tmp_path / "octo")
    torch.testing.assert_close(chunks(checkpoint, model), chunks(made.checkpoint, made.model), atol=0.1, rtol=0)


def given(checkpoint, folder, dim=7, **options):
    """The checkpoint that the original saved, told words by a tokenizer of our own."""
    entry = {"action": {"mean": [0.0] * dim, "std": [0.5] * dim}}
    files = {"tokenizer.json": learner().checkpoint.files["tokenizer.json"]}
    return TrainableOcto(
        checkpoint.with_data({"new": entry}, files), weights.load(checkpoint, folder), "new", dtype=torch.float32, **options
    )


def of(made, dim=7):
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    horizon = made.horizon
    return Minibatch(made.prepare(images), SAID[:2], torch.zeros(2, horizon, dim), torch.ones(2, horizon, dtype=torch.bool))


@pytest.mark.parametrize("rank", [0, 2])
def test_given_model_keeps_its_t5(rank, checkpoint, folder, tmp_path):
    if rank:
        pytest.importorskip("peft")
    made = given(checkpoint, folder, rank=rank)
    before = {name: p.clone() for name, p in lora.merged(made.model)}
    optimizer = torch.optim.AdamW(made.trainable().values(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        made.loss(of(made))["action"].backward()
        optimizer.step()
    assert not any(".t5." in name for name in made.trainable()) and (not rank or all(".lora_" in n for n in made.trainable()))
    made.export(tmp_path / "tuned")
    again = read_checkpoint(tmp_path / "tuned", "tuned")
    model = weights.load(again, tmp_path / "tuned")
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in before if name.startswith("t5.")} <= same
    assert not {"head.inputs.weight", "transformer.blocks.0.attention.query.weight"} & same
    assert "new" in json.loads(again.files["dataset_statistics.json"])


def test_fewer_action_dimensions_than_the_model_has(checkpoint, folder):
    made = given(checkpoint, folder, dim=3)
    assert torch.isfinite(made.loss(of(made, 3))["action"]) and made.act(of(made, 3).images, SAID[:2]).shape == (2, 3)
    with pytest.raises(ConfigError, match="has 7 action dimensions, the demonstrations 8"):
        given(checkpoint, folder, dim=8)


def test_statistics_without_a_name_give_way(checkpoint):
    flat = checkpoint.with_data({"action": {"mean": [0.0]}}, {})
    assert set(flat.statistics) >= {"action"}
    assert set(flat.with_data({"new": {}}, {}).statistics) == {"new"}


def test_sizes():
    assert read_size("octo-small-1.5").layers == 12 and read_size("small").max_horizon == 1
    with pytest.raises(ConfigError, match="unknown size of a new model 'smal': did you mean small"):
        read_size("smal")
