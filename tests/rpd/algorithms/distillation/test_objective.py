"""The distillation term: what it refuses, how it weighs, and what it leaves alone."""

import json
import math

import pytest
import torch
from tensordict import TensorDict

from envs.errors import ConfigError
from rpd.config import DistillConfig
from rpd.distill import DistillObjective, GateContext
from rpd.distill.objective import gradient_norms
from students.distribution import ActionDistribution

DISCRETE = (False, True)
ALL = {"mean", "std", "valid"}


def objective(provides=ALL, use_reward: bool = True, bin_edges=None, **config) -> DistillObjective:
    chosen = DistillConfig(**{"divergence": "mse", **config})
    return DistillObjective(chosen, "policy:x", provides, DISCRETE, use_reward, bin_edges)


def batch(gaps: list[float], valid: list[bool] | None = None, std: list[float] | None = None) -> TensorDict:
    """A teacher that is `gaps` away from a student at 0, sure of a closed gripper."""
    n = len(gaps)
    fields = {
        "teacher.mean": torch.tensor([[g, -1.0] for g in gaps]),
        "teacher.valid": torch.tensor(valid or [True] * n),
        "teacher.std": torch.tensor([[s, 0.0] for s in std or [0.2] * n]),
    }
    return TensorDict(fields, batch_size=[n])


def student(n: int) -> ActionDistribution:
    """At 0, and just as sure of the gripper."""
    raw = torch.tensor([[0.0, -100.0]]).repeat(n, 1).requires_grad_()
    return ActionDistribution(raw, torch.full((2,), -1.0), torch.tensor(DISCRETE))


def loss(o: DistillObjective, b: TensorDict, progress: float = 0.0, context: GateContext | None = None) -> float:
    o.prepare(b, progress, context or GateContext())
    return o.loss(student(len(b)), b).item()


def test_refuses_a_divergence_that_the_teacher_cannot_serve() -> None:
    with pytest.raises(ConfigError) as e:
        objective({"mean"}, divergence="rkl")
    assert str(e.value) == (
        "divergence rkl needs the teacher's bin_logits or samples or std, but teacher policy:x provides only mean; "
        "use huber or l1 or mse or nll"
    )


def test_refuses_samples_that_the_teacher_does_not_give() -> None:
    with pytest.raises(ConfigError, match=r"nearest needs the teacher's samples, but .* only mean, std; use fkl or huber or"):
        objective({"mean", "std"}, divergence="nearest")


def test_refuses_a_gate_that_the_teacher_cannot_serve() -> None:
    with pytest.raises(ConfigError, match=r"gate entropy needs the teacher's std, .* use none or success-surpassed"):
        objective({"mean"}, gate="entropy")


def test_the_form_is_chosen_by_what_the_teacher_provides() -> None:
    edges = torch.linspace(-1, 1, 6).expand(2, -1)
    for provides, wanted in (
        ({"mean", "std", "bin_logits"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples", "bin_logits"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples"}, {"mean", "samples"}),
        ({"mean", "std", "log_prob"}, {"mean", "std"}),
    ):
        assert objective(provides, divergence="rkl", bin_edges=edges).wanted == wanted
    for provides, wanted in (
        ({"mean", "std", "bin_logits", "log_prob"}, {"log_prob"}),
        ({"mean", "std", "bin_logits"}, {"mean", "bin_logits"}),
        ({"mean", "std", "samples"}, {"mean", "samples"}),
        ({"mean", "std"}, {"mean", "std"}),
    ):
        assert objective(provides, divergence="opd", bin_edges=edges).wanted == wanted
    assert objective({"mean", "std", "log_prob"}, divergence="opd", gate="entropy").wanted == {"mean", "std", "log_prob"}
    with pytest.raises(ConfigError, match="opd needs the teacher's log_prob or bin_logits or samples or std"):
        objective({"mean"}, divergence="opd")


def test_weighted_mean_over_the_labelled_rows() -> None:
    # w = 3; mse of rows 0 and 2: (0.01 + 0.09) / 2
    b = batch([0.1, 0.2, 0.3], valid=[True, False, True])
    assert loss(objective(weight=3.0), b) == pytest.approx(3 * 0.05)
    assert loss(objective(weight=3.0, until=0.5), b, progress=0.25) == pytest.approx(1.5 * 0.05)
    assert loss(objective(weight=3.0, until=0.5), b, progress=0.5) == 0.0


def test_nothing_labelled_is_zero() -> None:
    assert loss(objective(), batch([0.1, 0.2], valid=[False, False])) == 0.0


def test_unlabelled_rows_cannot_poison_the_gradient() -> None:
    for divergence in ("mse", "l1", "huber", "nll", "fkl", "rkl"):
        o = objective(divergence=divergence, gate="entropy", detach_std=False)
        b = batch([0.1, math.nan, 0.3], valid=[True, False, True], std=[0.2, math.inf, 0.2])
        o.prepare(b, 0.0, GateContext())
        s = student(3)
        o.loss(s, b).backward()
        assert torch.isfinite(s.raw.grad).all()
        assert torch.equal(s.raw.grad[1], torch.zeros(2))
        assert all(torch.isfinite(x) for x in o.metrics().values())


@pytest.mark.parametrize("divergence", ["nearest", "fkl", "rkl"])
def test_unlabelled_samples_cannot_poison_the_gradient(divergence: str) -> None:
    o = objective({"mean", "samples"}, divergence=divergence, detach_std=False)
    b = batch([0.1, math.nan, 0.3], valid=[True, False, True])
    b["teacher.samples"] = torch.randn(3, 4, 2)
    b["teacher.samples"][1] = math.nan
    o.prepare(b, 0.0, GateContext())
    s = student(3)
    o.loss(s, b).backward()
    assert s.raw.grad.isfinite().all() and s.raw.grad[1].tolist() == [0, 0] and s.raw.grad[0, 0] != 0


def with_bins(n: int) -> TensorDict:
    """A teacher that provides everything, and what the student did."""
    g = torch.Generator().manual_seed(0)
    given = batch([0.1] * n)
    given["teacher.bin_logits"] = torch.randn(n, 2, 9, generator=g).log_softmax(-1)
    given["teacher.log_prob"] = torch.randn(n, generator=g)
    given["action"], given["log_prob"] = torch.randn(n, 2, generator=g), torch.randn(n, generator=g)
    return given


@pytest.mark.parametrize("divergence", ["fkl", "rkl", "opd"])
def test_bins_are_digested_once_and_unlabelled_rows_leave_no_trace(divergence: str) -> None:
    edges = torch.linspace(-1, 1, 10).expand(2, -1)
    for provides in ({"mean", "bin_logits"}, {"mean", "std", "bin_logits", "log_prob"}):
        o = objective(provides, divergence=divergence, bin_edges=edges)
        whole, holed = with_bins(4), with_bins(4)
        holed["teacher.valid"][1] = False
        for name in ("mean", "bin_logits", "log_prob"):
            holed["teacher." + name][1] = math.nan
        for b in (whole, holed):
            for name in {"teacher.mean", "teacher.std", "teacher.bin_logits", "teacher.log_prob"}:
                if name.removeprefix("teacher.") not in o.wanted:
                    b.pop(name)
            o.prepare(b, 0.0, GateContext())
            assert "teacher.bin_logits" not in b.keys()  # noqa: SIM118
        if o.scores:
            assert holed["distill_advantage"].isfinite().all() and holed["distill_advantage"][1] == 0
            assert not {"teacher.mean", "teacher.log_prob", "teacher.log_mass"} & set(holed.keys())
        else:
            s, rows = student(4), torch.tensor([0, 2, 3])
            o.mean_divergence(s, holed).backward()
            assert s.raw.grad.isfinite().all() and s.raw.grad[1].tolist() == [0, 0]
            expected = o.mean_divergence(student(3), whole[rows])
            torch.testing.assert_close(o.mean_divergence(student(4), holed), expected)


def test_scores_are_gated_and_weighted() -> None:
    # x = 1, 3, 5, of which the second is not labelled: mean 3; the entropy gate is 1 and 1/2
    b = batch([0.0] * 3, valid=[True, False, True], std=[0.2, 0.2, 0.4])
    b["teacher.log_prob"], b["log_prob"] = torch.tensor([1.0, 3.0, 5.0]), torch.zeros(3)
    b["action"] = torch.zeros(3, 2)
    gated = {"divergence": "opd", "gate": "entropy", "gate_beta": 2.0, "weight": 3.0}
    o = objective(ALL | {"log_prob"}, **gated)
    first, second = b.clone(), b.clone()
    o.prepare(first, 0.25, GateContext())
    assert o.scores and o.advantage(first).tolist() == pytest.approx([-2.0, 0.0, 1.0])
    assert o.weight.item() == 1.5  # half-way to `until`
    assert {k: v.item() for k, v in o.metrics().items()} == pytest.approx(
        {"distill/weight": 1.5, "distill/gate": 0.75, "distill/labelled": 2 / 3, "distill/divergence": -3.0}
    )
    o = objective(ALL | {"log_prob"}, preserve_mean=True, **gated)
    o.prepare(second, 0.25, GateContext())
    assert o.advantage(second).tolist() == pytest.approx([-2.0 / 0.75, 0.0, 1.0 / 0.75])


def test_gate_scales_or_redistributes() -> None:
    # entropy gate, beta = 2, two dimensions, the gripper sure: g = 0.2 / s = 1 and 1/2
    gaps, std = [0.1, 0.3], [0.2, 0.4]
    gated = objective(weight=1.0, gate="entropy", gate_beta=2.0)
    assert loss(gated, batch(gaps, std=std)) == pytest.approx((0.01 + 0.5 * 0.09) / 2)
    preserved = objective(weight=1.0, gate="entropy", gate_beta=2.0, preserve_mean=True)
    assert loss(preserved, batch(gaps, std=std)) == pytest.approx((0.01 + 0.5 * 0.09) / 1.5)
    assert gated.metrics()["distill/gate"].item() == pytest.approx(0.75)


def test_success_surpassed_switches_off() -> None:
    o = objective(weight=1.0, gate="success-surpassed")
    assert o.gate.needs_success
    assert loss(o, batch([0.1]), context=GateContext(0.4, 0.0)) == pytest.approx(0.01)
    assert loss(o, batch([0.1]), context=GateContext(0.4, 0.6)) == 0.0


def test_metrics() -> None:
    o = objective(weight=3.0)
    o.prepare(batch([0.1] * 4, valid=[True, False, False, False]), 0.0, GateContext())
    assert {k: v.item() for k, v in o.metrics().items()} == {
        "distill/weight": 3.0,
        "distill/gate": 1.0,
        "distill/labelled": 0.25,
    }


def test_without_reward_the_weight_stays() -> None:
    for schedule in ("linear", "gradient-ratio"):
        o = objective(weight=3.0, schedule=schedule, use_reward=False)
        assert o.active(1.0)
        assert loss(o, batch([0.1]), progress=1.0) == pytest.approx(0.03)


def test_gradient_norms_by_hand() -> None:
    a = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    b = [torch.tensor([0.0]), torch.tensor([[5.0, 12.0]])]
    norms, cosine = gradient_norms(a, b)
    assert norms.tolist() == [5.0, 13.0]
    assert cosine.item() == pytest.approx(48 / 65)
    assert gradient_norms(a, [torch.zeros(1), torch.zeros(1, 2)])[1].item() == 0.0


def test_gradient_ratio_uses_what_is_observed_and_resumes() -> None:
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
