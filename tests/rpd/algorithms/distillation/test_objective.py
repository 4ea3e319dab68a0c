"""The distillation term: what it refuses, how it weighs, and what it leaves alone."""

import json
import math

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms.distillation import DistillObjective, GateContext
from rpd.algorithms.distillation.objective import gradient_norms
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError
from rpd.students.networks.distribution import ActionDistribution

DISCRETE = (False, True)
ALL = {"mean", "std", "valid"}


def objective(output_fields=ALL, use_reward: bool = True, bin_edges=None, **config) -> DistillObjective:
    chosen = DistillConfig(**{"divergence": "mse", **config})
    return DistillObjective(chosen, "x", output_fields, DISCRETE, use_reward, bin_edges)


def batch(gaps: list[float], valid: list[bool] | None = None, std: list[float] | None = None) -> TensorDict:
    """A teacher that is `gaps` away from a student at 0, sure of a closed gripper."""
    n = len(gaps)
    teacher = {
        "mean": torch.tensor([[g, -1.0] for g in gaps]),
        "valid": torch.tensor(valid or [True] * n),
        "std": torch.tensor([[s, 0.0] for s in std or [0.2] * n]),
    }
    return TensorDict({"teacher": teacher}, batch_size=[n])


def student(n: int) -> ActionDistribution:
    """At 0, and just as sure of the gripper."""
    raw = torch.tensor([[0.0, -100.0]]).repeat(n, 1).requires_grad_()
    return ActionDistribution(raw, torch.full((2,), -1.0), torch.tensor(DISCRETE))


def loss(o: DistillObjective, b: TensorDict, step: int = 0, context: GateContext | None = None) -> float:
    targets = o.prepare(b, step, context or GateContext())
    return o.loss(student(len(b)), targets).item()


def test_refuses_a_divergence_that_the_teacher_cannot_serve() -> None:
    with pytest.raises(ConfigError) as e:
        objective({"mean"}, divergence="rkl")
    assert str(e.value) == (
        "divergence rkl needs the teacher's bin_logits or samples or std, but teacher x provides only mean; "
        "use direction or huber or l1 or mse or neighborhood or nll"
    )


def test_refuses_samples_that_the_teacher_does_not_give() -> None:
    with pytest.raises(
        ConfigError, match=r"nearest needs the teacher's samples, .* only mean, std; use adpo or chi2 or direction"
    ):
        objective({"mean", "std"}, divergence="nearest")


def test_refuses_a_gate_that_the_teacher_cannot_serve() -> None:
    with pytest.raises(ConfigError, match=r"gate entropy needs the teacher's std or samples or bin_logits, .* use agreement"):
        objective({"mean"}, gate="entropy")


def test_variant_follows_teacher_output_fields() -> None:
    edges = torch.linspace(-1, 1, 6).expand(2, -1)
    for output_fields, requested in (
        ({"mean", "std", "bin_logits"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples", "bin_logits"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples"}, {"mean", "samples"}),
        ({"mean", "std", "log_prob"}, {"mean", "std"}),
    ):
        assert objective(output_fields, divergence="rkl", bin_edges=edges).requested_fields == requested
    for output_fields, requested in (
        ({"mean", "std", "bin_logits", "log_prob"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples"}, {"mean", "samples"}),
        ({"mean", "std"}, {"mean", "std"}),
        ({"mean", "log_prob"}, {"log_prob"}),
    ):
        assert objective(output_fields, divergence="opd", bin_edges=edges).requested_fields == requested
    everything = {"mean", "std", "bin_logits", "log_prob"}
    scored = {"divergence": "opd", "opd_teacher_score": True}
    assert objective(everything, bin_edges=edges, **scored).requested_fields == {"log_prob"}
    assert objective(everything, bin_edges=edges, gate="entropy", **scored).requested_fields == {"mean", "std", "log_prob"}
    with pytest.raises(ConfigError, match="opd needs the teacher's bin_logits or samples or std or log_prob"):
        objective({"mean"}, divergence="opd")
    with pytest.raises(ConfigError, match="opd needs the teacher's log_prob, but teacher x provides only mean, std"):
        objective({"mean", "std"}, **scored)
    with pytest.raises(ConfigError, match="opd_teacher_score belongs to divergence opd, but divergence is mse"):
        objective(everything, opd_teacher_score=True)


def test_weighted_mean_over_the_labelled_rows() -> None:
    # w = 3; mse of rows 0 and 2: (0.01 + 0.09) / 2
    b = batch([0.1, 0.2, 0.3], valid=[True, False, True])
    assert loss(objective(weight=3.0), b) == pytest.approx(3 * 0.05)
    assert loss(objective(weight=3.0, decay_steps=100), b, step=50) == pytest.approx(1.5 * 0.05)
    assert loss(objective(weight=3.0, decay_steps=100), b, step=100) == 0.0


def test_no_labels_give_zero_loss() -> None:
    assert loss(objective(), batch([0.1, 0.2], valid=[False, False])) == 0.0


def test_unlabelled_rows_cannot_poison_the_gradient() -> None:
    for divergence in ("mse", "l1", "huber", "nll", "fkl", "rkl"):
        o = objective(divergence=divergence, gate="entropy", detach_std=False)
        b = batch([0.1, math.nan, 0.3], valid=[True, False, True], std=[0.2, math.inf, 0.2])
        targets = o.prepare(b, 0.0, GateContext())
        s = student(3)
        o.loss(s, targets).backward()
        assert torch.isfinite(s.raw.grad).all()
        assert torch.equal(s.raw.grad[1], torch.zeros(2))
        assert all(torch.isfinite(x) for x in o.metrics().values())


@pytest.mark.parametrize("divergence", ["nearest", "fkl", "rkl"])
def test_unlabelled_samples_cannot_poison_the_gradient(divergence: str) -> None:
    o = objective({"mean", "samples"}, divergence=divergence, detach_std=False)
    b = batch([0.1, math.nan, 0.3], valid=[True, False, True])
    b["teacher", "samples"] = torch.randn(3, 4, 2)
    b["teacher", "samples"][1] = math.nan
    targets = o.prepare(b, 0.0, GateContext())
    s = student(3)
    o.loss(s, targets).backward()
    assert s.raw.grad.isfinite().all() and s.raw.grad[1].tolist() == [0, 0] and s.raw.grad[0, 0] != 0


def with_bins(n: int) -> TensorDict:
    """A teacher that provides everything, and what the student did."""
    g = torch.Generator().manual_seed(0)
    given = batch([0.1] * n)
    given["teacher", "bin_logits"] = torch.randn(n, 2, 9, generator=g).log_softmax(-1)
    given["teacher", "log_prob"] = torch.randn(n, 2, generator=g)
    given["action"] = torch.randn(n, 2, generator=g)
    given["behavior"] = {"raw": student(n).raw.detach(), "log_std": student(n).log_std.expand(n, 2)}
    return given


def drawn(seed: int, function, *args):
    """The result, with random numbers of their own."""
    torch.manual_seed(seed)
    return function(*args)


@pytest.mark.parametrize("divergence", ["fkl", "rkl", "opd"])
def test_bins_are_precomputed_once_and_unlabelled_rows_leave_no_trace(divergence: str) -> None:
    edges = torch.linspace(-1, 1, 10).expand(2, -1)
    for output_fields in ({"mean", "bin_logits"}, {"mean", "std", "bin_logits", "log_prob"}):
        o = objective(output_fields, divergence=divergence, bin_edges=edges)
        whole, holed = with_bins(4), with_bins(4)
        holed["teacher", "valid"][1] = False
        for name in ("mean", "bin_logits", "log_prob"):
            holed["teacher", name][1] = math.nan
        for b in (whole, holed):
            for name in {"mean", "std", "bin_logits", "log_prob"} - o.requested_fields:
                del b["teacher", name]
        before = whole.clone()
        whole_targets, targets = (drawn(0, o.prepare, b, 0.0, GateContext()) for b in (whole, holed))
        assert "bin_logits" not in targets.keys()  # noqa: SIM118
        assert (whole == before).all() and set(whole["teacher"].keys()) == {"valid", *o.requested_fields}
        if divergence == "opd":
            assert set(targets.keys()) == {"valid", "gate", "actions", "log_behavior", "advantages"}
        s, rows = student(4), torch.tensor([0, 2, 3])
        o.mean_divergence(s, targets).backward()
        assert s.raw.grad.isfinite().all() and s.raw.grad[1].tolist() == [0, 0]
        expected = o.mean_divergence(student(3), whole_targets[rows])
        torch.testing.assert_close(o.mean_divergence(student(4), targets), expected)


def test_opd_is_gated_and_weighted() -> None:
    # the teacher's log-densities less the student's: 1 and 5, and 0 for the gripper; the second row is not labelled
    b = batch([0.0] * 3, valid=[True, False, True], std=[0.2, 0.2, 0.4])
    s = student(3)
    b["action"] = torch.tensor([[0.0, -1.0]] * 3)
    b["behavior"] = {"raw": s.raw.detach(), "log_std": s.log_std.expand(3, 2)}
    b["teacher", "log_prob"] = s.log_prob_per_dim(b["action"]).detach() + torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]])
    gated = {
        "divergence": "opd",
        "opd_teacher_score": True,
        "gate": "entropy",
        "gate_beta": 2.0,
        "weight": 3.0,
        "decay_steps": 100,
    }
    o = objective(ALL | {"log_prob"}, **gated)
    targets = o.prepare(b, 50, GateContext())
    assert o.samples_actions and targets["advantages"][:, 0, 0].tolist() == pytest.approx([-2.0, 0.0, 2.0])
    assert o.weight.item() == 1.5  # half-way to `decay_steps`
    assert {k: v.item() for k, v in o.metrics().items()} == pytest.approx(
        {"distill/weight": 1.5, "distill/gate": 0.75, "distill/label_fraction": 2 / 3, "distill/divergence": -3.0}
    )
    assert o.loss(s, targets).item() == pytest.approx(1.5 * (1 * 2.0 - 0.5 * 2.0) / 2)  # gates 1 and 1/2, two labels
    o = objective(ALL | {"log_prob"}, normalize_gate=True, **gated)
    assert o.loss(s, o.prepare(b, 50, GateContext())).item() == pytest.approx(1.5 * (1 * 2.0 - 0.5 * 2.0) / 1.5)


def test_gate_scales_or_redistributes() -> None:
    # entropy gate, beta = 2, two dimensions, the gripper sure: g = 0.2 / s = 1 and 1/2
    gaps, std = [0.1, 0.3], [0.2, 0.4]
    gated = objective(weight=1.0, gate="entropy", gate_beta=2.0)
    assert loss(gated, batch(gaps, std=std)) == pytest.approx((0.01 + 0.5 * 0.09) / 2)
    preserved = objective(weight=1.0, gate="entropy", gate_beta=2.0, normalize_gate=True)
    assert loss(preserved, batch(gaps, std=std)) == pytest.approx((0.01 + 0.5 * 0.09) / 1.5)
    assert gated.metrics()["distill/gate"].item() == pytest.approx(0.75)


def test_success_surpassed_switches_off() -> None:
    o = objective(weight=1.0, gate="success-surpassed")
    assert loss(o, batch([0.1]), context=GateContext(0.4, 0.0)) == pytest.approx(0.01)
    assert loss(o, batch([0.1]), context=GateContext(0.4, 0.6)) == 0.0


def test_metrics() -> None:
    o = objective(weight=3.0)
    o.prepare(batch([0.1] * 4, valid=[True, False, False, False]), 0.0, GateContext())
    assert {k: v.item() for k, v in o.metrics().items()} == {
        "distill/weight": 3.0,
        "distill/gate": 1.0,
        "distill/label_fraction": 0.25,
    }


def test_warm_up_on_the_teacher_alone() -> None:
    o = objective(reward_points="0:0,100:1", schedule="linear", decay_steps=50)
    for step, expected in ((0, 0.0), (50, 1.0), (100, 2.0)):
        o.prepare(batch([0.1]), step, GateContext())
        assert o.weigh_reward(torch.tensor(2.0)).item() == expected
    with pytest.raises(ConfigError, match=r"reward_points weighs the reward's surrogate, and algorithm dagger has no reward"):
        objective(reward_points="0:0,100:1", use_reward=False)
    assert o.active(99) and not o.active(100)  # the surrogate has its weight until both are over


def test_without_reward_the_weight_stays() -> None:
    for schedule in ("linear", "gradient-ratio"):
        o = objective(weight=3.0, schedule=schedule, use_reward=False)
        assert o.active(10**9)
        assert loss(o, batch([0.1]), step=10**9) == pytest.approx(0.03)


def test_gradient_norms_by_hand() -> None:
    a = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    b = [torch.tensor([0.0]), torch.tensor([[5.0, 12.0]])]
    norms, cosine = gradient_norms(a, b)
    assert norms.tolist() == [5.0, 13.0]
    assert cosine.item() == pytest.approx(48 / 65)
    assert gradient_norms(a, [torch.zeros(1), torch.zeros(1, 2)])[1].item() == 0.0


def test_gradient_ratio_uses_observed_gradients_and_resumes() -> None:
    o = objective(weight=0.5, schedule="gradient-ratio")
    b = batch([0.1])
    o.prepare(b, 0.0, GateContext())
    o.observe([torch.tensor([3.0, 4.0])], [torch.tensor([20.0, 0.0])])
    assert o.weight.item() == pytest.approx(0.5 * 20 / 5)
    assert o.metrics()["distill/grad_ratio"].item() == pytest.approx(0.5)
    assert o.metrics()["distill/grad_cosine"].item() == pytest.approx(0.6)
    resumed = objective(weight=0.5, schedule="gradient-ratio")
    resumed.load_state_dict(json.loads(json.dumps(o.state_dict())))
    assert loss(resumed, b, 0.1) == loss(o, b, 0.1) > 0
