"""TAID's target: the bridge by hand, its ends, and how it moves."""

import json
import math

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms.distillation import DistillObjective, GateContext
from rpd.algorithms.distillation.moving_target import SPEED, START, MovingTarget
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = (False, True)
CONFIG = DistillConfig(min_teacher_std=0.1, decay_steps=100, target="taid", divergence="fkl", schedule="constant")
STUDENT = ActionDistribution(torch.tensor([[0.0, 0.0]]), torch.tensor([0.4, 1.0]).log(), torch.tensor(DISCRETE))


def teacher(**fields: torch.Tensor) -> TensorDict:
    return TensorDict({"mean": torch.tensor([[0.5, 0.6]]), "valid": torch.ones(1, dtype=torch.bool), **fields}, [1])


def target(t: float, edges: torch.Tensor | None = None) -> MovingTarget:
    made = MovingTarget(CONFIG, edges)
    made.t = torch.tensor(t)
    return made


def test_bridge_of_gaussians_by_hand() -> None:
    # precisions 1 / 0.16 and 1 / 0.04, half each: 15.625; mean 12.5 * 0.5 / 15.625 = 0.4; gripper: half the log-odds of 0.8
    moved = target(0.5).between(teacher(std=torch.tensor([[0.2, math.nan]])), STUDENT)
    assert moved["std"][0, 0].item() == pytest.approx(15.625**-0.5, rel=1e-5)
    assert moved["mean"][0].tolist() == pytest.approx([0.4, math.tanh(math.log(4) / 4)], rel=1e-5)
    assert target(0.5).between(teacher(), STUDENT)["mean"][0, 0].item() == pytest.approx(0.25)


def test_ends_are_student_and_teacher_also_for_bins() -> None:
    edges = torch.linspace(-2, 2, 401).expand(2, -1)
    centres = (edges[0, 1:] + edges[0, :-1]) / 2
    logits = (-0.5 * ((centres - 0.5) / 0.2).square()).log_softmax(-1).expand(1, 2, -1)
    given = teacher(std=torch.tensor([[0.2, 1.0]]), bin_logits=logits)
    at_teacher, half = target(1.0, edges).between(given, STUDENT), target(0.5, edges).between(given, STUDENT)
    for name in ("mean", "bin_logits"):
        torch.testing.assert_close(at_teacher[name], given[name])
    assert at_teacher["std"][0, 0].item() == pytest.approx(0.2)
    at_student = target(0.0, edges).between(given, STUDENT)
    assert at_student["mean"][0].tolist() == pytest.approx([0.0, 0.0]) and at_student["std"][0, 0].item() == pytest.approx(0.4)
    mass = half["bin_logits"][0, 0].exp()
    mean = (mass * centres).sum()
    assert mean.item() == pytest.approx(0.4, rel=1e-3)  # the bridge of the Gaussians
    assert (mass * (centres - mean).square()).sum().sqrt().item() == pytest.approx(15.625**-0.5, rel=1e-2)


def test_moves_with_the_loss_and_never_behind_the_ramp() -> None:
    slow, fast = target(START), target(START)
    for first, second in ((2.0, 2.0), (1.0, 2.0)):
        fast.advance(0, torch.tensor(first))
        slow.advance(0, torch.tensor(second))
    assert fast.t > slow.t
    one = target(START)
    one.advance(0, torch.tensor(1.0))
    assert one.t.item() == pytest.approx(START + SPEED * 0.5 * (1 - START))  # no drop known: sigmoid(0)
    one.advance(50, None)
    assert one.t.item() == pytest.approx(0.7)
    one.advance(100, torch.tensor(3.0))
    assert one.t.item() == 1


def test_in_the_objective_and_over_a_resume() -> None:
    def make() -> DistillObjective:
        return DistillObjective(CONFIG, "x", {"mean", "std"}, DISCRETE)

    o = make()
    assert o.keeps == {"behavior"}
    batch = TensorDict({
        "teacher": teacher(std=torch.tensor([[0.2, 0.2]])),
        "behavior": {"raw": STUDENT.raw, "log_std": STUDENT.log_std.expand(1, 2)},
    }, [1])  # fmt: skip
    near = o.mean_divergence(STUDENT, o.prepare(batch, 0, GateContext()))
    o.prepare(batch, 50, GateContext())
    assert o.metrics()["distill/target"].item() == pytest.approx(0.7)
    assert o.mean_divergence(STUDENT, o.prepare(batch, 100, GateContext())) > near > 0
    resumed = make()
    resumed.load_state_dict(json.loads(json.dumps(o.state_dict())))
    assert resumed.target.t == o.target.t


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"target taid moves a teacher's mean, std or bins, but divergence nearest reads"):
        DistillObjective(DistillConfig(divergence="nearest", target="taid"), "x", {"mean", "samples"}, DISCRETE)
