"""What an OpenVLA learns with: the loss by hand, adapters, and what is written."""

import json
import math

import pytest
import torch

from rpd.envs.privileged_state import ManipulationState
from rpd.teachers.openvla import weights
from rpd.teachers.openvla.actions import ActionBins, ActionStatistics
from rpd.teachers.openvla.checkpoint import read_checkpoint
from rpd.teachers.openvla.config import TinyViT
from rpd.teachers.openvla.init_model import new_checkpoint
from rpd.teachers.openvla.model import OpenVLA
from rpd.teachers.openvla.trainable import TrainableOpenVLA, cross_entropy
from rpd.teachers.vla import lora
from rpd.teachers.vla.trainable import Minibatch

STATISTICS = {"mine": {"action": {"q01": [-0.5, -1.0], "q99": [0.5, 1.0], "mask": [True, False]}}}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SAID = ["go left", "go right", "stay"]


def learner(**options):
    torch.manual_seed(0)
    vit = TinyViT(depth=3, embed_dim=16, num_heads=2, patch_size=8, class_token=False)
    checkpoint = new_checkpoint("new", SAID, STATISTICS, 16, [vit], LLAMA, bins=32)
    return TrainableOpenVLA(checkpoint, OpenVLA(checkpoint.config), "mine", **options)


def batch(scene=None):
    images = torch.randint(0, 256, (3, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    actions = torch.tensor([[-0.5, 1.0], [0.5, -1.0], [0.0, 1.0]])
    return Minibatch(images, SAID, actions[:, None], torch.ones(3, 1, dtype=torch.bool), scene)


def test_cross_entropy_by_hand():
    bins = ActionBins(vocab=6, bins=4)  # ids 2 .. 5 are actions; 6 and 7 padding
    logits = torch.zeros(1, 1, 8)
    logits[..., 3] = 2.0
    tokens = torch.tensor([[4]])
    total = math.log(7 + math.exp(2))
    assert math.isclose(cross_entropy(logits, tokens, bins, 0.0).item(), total, rel_tol=1e-6)
    q = torch.softmax(torch.tensor([-2.0, -0.5, 0.0, -0.5]), 0)  # exp(-d²/2) at 2, 1, 0, 1 bins
    assert math.isclose(cross_entropy(logits, tokens, bins, 1.0).item(), total - 2 * q[1].item(), rel_tol=1e-6)


def test_normalize_undoes_unnormalize():
    statistics = ActionStatistics(q01=[-1.0, 2.0, 3.0], q99=[1.0, 4.0, 3.0], mask=[False, True, True])
    values = statistics.unnormalize(statistics.normalize([0.25, 3.5, 3.0]))
    assert values.tolist() == [0.25, 3.5, 3.0]
    assert statistics.normalize([0.25, 3.5, 7.0]).tolist() == [0.25, 0.5, 0.0]  # no range: always the middle


def test_overfits_one_batch():
    made = learner(smoothing=1.0, scene_weight=0.1)
    scene = ManipulationState.empty(3)
    ManipulationState.get(scene, "tcp_quat")[:, 0] = ManipulationState.get(scene, "object_quat")[:, 0] = 1.0
    shown = batch(scene)
    optimizer = torch.optim.AdamW(made.trainable().values(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses = made.loss(shown)
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"action", "scene"} and losses["scene"] < 0.01
    assert (made.act(shown.images, SAID) - shown.actions[:, 0]).abs().max() < 0.1


def test_eyes_can_learn_alone():
    made = learner(scene_weight=1.0)
    shown = batch(ManipulationState.empty(3))
    losses = made.scene_loss(shown)
    assert losses == {"scene": made.loss(shown)["scene"]}
    losses["scene"].backward()
    touched = {name.split(".")[1] for name, p in made.trainable().items() if p.grad is not None and p.grad.any()}
    assert touched == {"vision_backbone", "projector", "weight", "bias"}  # and the scene head


def test_export_is_a_checkpoint_without_the_scene_head(tmp_path):
    made = learner(scene_weight=1.0, dtype=torch.float32)
    made.export(tmp_path / "vla")
    checkpoint = read_checkpoint(tmp_path / "vla", "vla")
    model = weights.load(checkpoint, tmp_path / "vla")
    assert json.loads((tmp_path / "vla" / "config.json").read_text())["torch_dtype"] == "float32"
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in made.model.named_parameters())


def test_adapters_alone_learn_and_are_merged(tmp_path):
    pytest.importorskip("peft")
    made = learner(rank=2, dtype=torch.float32)
    assert made.trainable() and all(".lora_" in name for name in made.trainable())
    whole = dict(learner().model.named_parameters())
    assert all(torch.equal(p, whole[name]) for name, p in lora.merged(made.model))  # they begin at nothing
    optimizer = torch.optim.AdamW(made.trainable().values(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        made.loss(batch())["action"].backward()
        optimizer.step()
    made.export(tmp_path / "vla")
    model = weights.load(read_checkpoint(tmp_path / "vla", "vla"), tmp_path / "vla")
    assert not torch.equal(model.language_model.lm_head.weight, whole["language_model.lm_head.weight"])
    again = TrainableOpenVLA(made.checkpoint, model, "mine")
    torch.testing.assert_close(again.loss(batch()), made.loss(batch()))
