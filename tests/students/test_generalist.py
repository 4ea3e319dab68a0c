"""One policy of several robots: padded and masked, told of its body, the same whether robots come alone or together."""

import copy

import pytest
import torch
from tensordict import TensorDict

from rpd.algorithms.distillation.divergences import DIVERGENCES
from rpd.config.schema import DistillConfig
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import Embodiment
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import GeneralistConfig, StudentConfig
from rpd.students.embodiment_layout import EmbodimentLayout
from rpd.students.generalist import BODY, Experts, GeneralistActorCritic
from tests.students.test_actor_critic import SMALL, make_spec

ARM = make_spec().model_copy(update={"state_names": ("q.a", "object.dx", "gripper", "goal.dx", "goal.dy")})


def on(robot, reach, names=ARM.state_names, actions=("x", "gripper"), scale=(0.1, 1.0), **changes):
    """A robot with a descriptor, state entries and action dimensions of its own."""
    body = Embodiment(name=robot, num_joints=6, descriptor={"reach": reach, "delay": 0.0, f"only_{robot}": 1.0})
    units = tuple("" if a == "gripper" else "m" for a in actions)
    discrete = tuple(a == "gripper" for a in actions)
    action = ARM.action.model_copy(update={"names": actions, "units": units, "scale": scale, "discrete": discrete})
    state = {"state": ARM.observations["state"].model_copy(update={"shape": (len(names),)})}
    own = {"embodiment": body, "action": action, "observations": state, "state_names": names}
    return ARM.model_copy(update={**own, **changes})


READS = ("object", "gripper", "goal", "pending")
LONG = on("long", 1.0)
SLOW = on("slow", 0.5, ("goal.dy", "goal.dx", "object.dx", "gripper", "pending.x"), scale=(0.05, 1.0))
FLAT = on(
    "flat", 0.6, ("object.dx", "gripper", "goal.dx", "goal.dy"), ("y", "x"), (0.2, 0.1)
)  # a dimension more, and no gripper
MEMBERS = (LONG, SLOW, FLAT)


def make(members=MEMBERS, student=None, **generalist):
    torch.manual_seed(0)
    student = student or SMALL.model_copy(update={"state_keys": READS})
    policy = GeneralistActorCritic(members, student, GeneralistConfig(**generalist))
    torch.nn.init.normal_(policy.actor[-1].weight)
    policy.set_normalization(
        torch.arange(float(len(policy.layout.spec.state_names))), torch.full((len(policy.layout.spec.state_names),), 4.0)
    )
    return policy


def trained(policy):
    """With weights for the body that are no longer zero, as after training."""
    with torch.no_grad():
        policy.actor[0].weight.normal_(std=0.5)
        policy.log_std_head.normal_()
    return policy


def test_joints_with_reversed_sign():  # ManiSkill's, whose scales are negative
    members = [on(name, reach, scale=(scale, 1.0)) for name, reach, scale in (("a", 0.5, -0.1), ("b", 1.0, -0.05))]
    layout = EmbodimentLayout(members, (), GeneralistConfig())
    assert layout.spec.action.scale == (-0.1, 1.0)
    assert [layout.robot_io(spec).rescale.tolist() for spec in members] == [[1.0, 1.0], [2.0, 1.0]]


def seen(spec, n=7):
    return TensorDict({"state": torch.randn(n, len(spec.state_names))}, batch_size=[n])


def together(policy, members=MEMBERS, n=7):
    """The same observations alone, and padded to one batch."""
    torch.manual_seed(1)
    alone, rows = [seen(spec, n) for spec in members], []
    for i, (spec, obs) in enumerate(zip(members, alone, strict=True)):
        state = obs["state"][:, policy.layout.robot_io(spec).columns]
        rows.append(TensorDict({"state": state, BODY: torch.full((n,), i)}, batch_size=[n]))
    return alone, torch.cat(rows)


def test_layout_is_the_union():
    layout = EmbodimentLayout(MEMBERS, READS, GeneralistConfig())
    assert layout.spec.state_names == ("object.dx", "gripper", "goal.dx", "goal.dy", "pending.x")
    assert layout.spec.action.names == ("x", "gripper", "y") and layout.spec.action.scale == (0.1, 1.0, 0.2)
    assert layout.descriptor_entries == ("reach",)  # delay is the same on all, the others are not on all
    slow = layout.robot_io(SLOW)
    assert slow.columns.tolist() == [2, 3, 1, 0, 4] and slow.present.all() and slow.rescale.tolist() == [2.0, 1.0, 1.0]
    flat = layout.robot_io(FLAT)
    assert flat.present.tolist() == [True, True, True, True, False]
    assert flat.dims.tolist() == [2, 0] and flat.own.tolist() == [True, False, True]
    # reach 1.0, 0.5, 0.6: mean 0.7, std sqrt((0.09 + 0.04 + 0.01) / 3)
    assert layout.robot_io(LONG).features.tolist() == pytest.approx([0.3 / (0.14 / 3) ** 0.5])
    two = [spec.model_copy(update={"task": "tabletop/PullCube"}) for spec in MEMBERS]
    both = EmbodimentLayout([*MEMBERS, *two], READS, GeneralistConfig(embodiment="one-hot"))
    assert both.robot_io(two[1]).features.tolist() == [0, 1, 0, 0, 1]


def test_unknown_robots():
    far = on("far", 9.0)
    policy = make()
    policy.adapt_to(far)
    assert policy.features.tolist() == policy.layout.robot_io(LONG).features.tolist()  # no longer than the longest that it was
    assert "zero-shot: far" in policy.note and "reach" in policy.note
    policy.adapt_to(SLOW)
    assert policy.note == ""
    hot = make(embodiment="one-hot")
    hot.adapt_to(far)
    assert hot.features.tolist() == [0, 0, 0] and "one-hot of zeros" in hot.note


@pytest.mark.parametrize("network", ["plain", "moe", "dual-head"])
@pytest.mark.parametrize("embodiment", ["descriptor", "one-hot"])
def test_alone_as_together(network, embodiment):
    policy = trained(make(network=network, embodiment=embodiment))
    alone, batch = together(policy)
    mixed = policy.distribution(batch)
    for i, (spec, obs) in enumerate(zip(MEMBERS, alone, strict=True)):
        policy.adapt_to(spec)
        one, rows = policy.distribution(obs), slice(7 * i, 7 * i + 7)
        dims = policy.layout.robot_io(spec).dims
        assert one.raw.shape == (7, spec.action.dim) and policy.act(obs).abs().max() <= 1
        torch.testing.assert_close(one.mean, mixed.mean[rows][:, dims])
        torch.testing.assert_close(one.std, mixed.std[rows][:, dims])
        action = torch.randn(7, 3)
        # A matrix product of 7 rows rounds otherwise than one of 21, and -z^2 / 2 makes much of it at a z of 10 to 40. Compared
        # to the largest, it is below 1e-6; a dimension too many or too few would change each by the order of 1.
        log_prob, padded = one.log_prob(action[:, dims]), mixed.log_prob(action.repeat(3, 1))[rows]
        torch.testing.assert_close(log_prob, padded, rtol=1e-5, atol=1e-6 * log_prob.abs().max().item())
        torch.testing.assert_close(one.entropy(), mixed.entropy()[rows])


def test_absent_state_entries_have_no_effect():
    policy = trained(make())
    _, batch = together(policy)
    before = policy.distribution(batch).mean
    batch["state"][14:, 4] = torch.randn(7)  # of flat, which has no pending.x
    assert torch.equal(policy.distribution(batch).mean, before)
    batch["state"][7:14, 4] += 1  # slow has
    assert not torch.equal(policy.distribution(batch).mean[7:14], before[7:14])


def test_centimetre_is_a_centimetre_on_every_robot():
    """Robots that are told nothing apart do the same, in metres."""
    policy = trained(make((LONG, SLOW), embodiment="none"))
    obs = seen(LONG)
    other = TensorDict({"state": torch.zeros(7, 5)}, batch_size=[7])
    for name in ("goal.dy", "goal.dx", "object.dx", "gripper"):
        other["state"][:, SLOW.state_names.index(name)] = obs["state"][:, LONG.state_names.index(name)]
    other["state"][:, 4] = policy.state_normalizer.mean[4]  # nothing unusual pending: as if it had none
    policy.adapt_to(LONG)
    a = policy.distribution(obs)
    policy.adapt_to(SLOW)
    b = policy.distribution(other)
    torch.testing.assert_close(a.raw[:, 0] * 0.1, b.raw[:, 0] * 0.05)
    torch.testing.assert_close(a.std[:, 0] * 0.1, b.std[:, 0] * 0.05)
    torch.testing.assert_close(a.raw[:, 1], b.raw[:, 1])


def test_masked_kl_by_hand():
    """Two robots of three dimensions together: x of both, a gripper of the first, y of the second."""
    policy = make((LONG, FLAT), SMALL.model_copy(update={"state_keys": READS[:3]}), embodiment="none")
    _, batch = together(policy, (LONG, FLAT), n=1)
    student = policy.distribution(batch)
    mean, std = torch.tensor([[0.3, 0.6, 99.0], [-0.2, 99.0, 0.4]]), torch.tensor([[0.1, 1.0, 99.0], [0.2, 99.0, 0.3]])
    kl = DIVERGENCES["fkl"][-1].fn(student, {"mean": mean, "std": std}, DistillConfig(min_teacher_std=0.05, detach_std=False))

    def gaussian(i, d):
        s, t, gap = student.std[i, d], std[i, d], mean[i, d] - student.mean[i, d]
        nats = torch.log(s / t) + (t**2 + gap**2) / (2 * s**2) - 0.5
        return nats if nats < 10 else 10 * (1 + torch.log(nats / 10))

    p, logit = 0.8, student.raw[0, 1]  # p = (0.6 + 1) / 2
    bernoulli = p * (torch.tensor(p).log() - logit.sigmoid().log()) + 0.2 * (torch.tensor(0.2).log() - (-logit).sigmoid().log())
    torch.testing.assert_close(kl[0], gaussian(0, 0) + bernoulli)
    torch.testing.assert_close(kl[1], gaussian(1, 0) + gaussian(1, 2))
    kl.sum().backward()
    assert policy.actor[-1].weight.grad.isfinite().all()


def test_generalist_of_one_robot_equals_actor_critic():
    student = StudentConfig(hidden_dims=(16, 16), state_keys=("object", "goal"), normalize_state=False)
    torch.manual_seed(3)
    plain = ActorCritic(LONG, student)
    policy = GeneralistActorCritic([LONG], student, GeneralistConfig(embodiment="none"))
    policy.load_state_dict({**plain.state_dict(), "blend": policy.blend, "log_std_head": policy.log_std_head})
    obs = seen(LONG)
    assert torch.equal(policy.act(obs), plain.act(obs)) and torch.equal(policy.value(obs), plain.value(obs))
    assert torch.equal(policy.distribution(obs).std, plain.distribution(obs).std)


def test_embodiment_features_have_no_effect_at_start():
    for network in ("plain", "moe"):
        policy, obs = make(network=network), seen(LONG)
        before = policy.distribution(obs).mean
        policy.features = policy.features + 1
        assert torch.equal(policy.distribution(obs).mean, before)


def test_gate_of_experts():
    torch.manual_seed(0)
    experts = Experts(6, 5, 4, 2)
    told = torch.randn(3, 2).repeat_interleave(4, 0)
    assert torch.equal(experts.weights(told), torch.full((12, 4), 0.25))  # at the start, all alike
    torch.nn.init.normal_(experts.gate.weight)
    weights = experts.weights(told)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(12))
    assert all(torch.equal(group, group[:1].expand(4, -1)) for group in weights.split(4))  # of the body, never the state
    assert (weights[0] - weights[4]).abs().max() > 0.01
    one, x = Experts(6, 5, 1, 2), torch.randn(12, 6)
    assert torch.equal(one(x, told), torch.nn.functional.elu(one.layers[0](x)))


def test_two_heads():
    policy = trained(make(network="dual-head"))
    policy.adapt_to(SLOW)
    obs = seen(SLOW)
    before = policy.act(obs)
    policy.start_finetuning(SMALL.model_copy(update={"init_log_std": -2.0}))
    torch.testing.assert_close(policy.distribution(obs).std[0, 0].log(), torch.tensor(-2.0))
    for progress in (0.0, 0.5, 1.0):  # training on begins where distillation ended, however much the second head counts
        policy.set_progress(progress)
        torch.testing.assert_close(policy.act(obs), before)
    policy.set_progress(0.5)
    assert policy.blend.item() == pytest.approx(0.6)
    distribution = policy.distribution(obs)
    distribution.raw[:, 0].sum().backward()
    assert policy.actor[-1].weight.grad is None and policy.rl_head.weight.grad.abs().sum() > 0
    policy.zero_grad()
    distribution = policy.distribution(obs)
    distribution.imitation.raw[:, 0].sum().backward()
    assert policy.rl_head.weight.grad is None and policy.actor[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("network", ["plain", "moe", "dual-head"])
def test_saved_and_loaded(network, tmp_path):
    policy, obs = trained(make(network=network)), seen(SLOW)
    policy.adapt_to(SLOW)
    policy.save_pretrained(tmp_path)
    loaded = ActorCritic.from_pretrained(tmp_path)
    assert loaded.spec == SLOW and loaded.layout.members == MEMBERS
    assert torch.equal(loaded.act(obs), policy.act(obs))
    loaded.adapt_to(LONG), policy.adapt_to(LONG)
    assert torch.equal(loaded.act(seen_again := seen(LONG)), policy.act(seen_again))
    assert copy.deepcopy(loaded).act(seen_again).shape == (7, 2)


@pytest.mark.parametrize(
    ("members", "changes", "message"),
    [
        ((LONG, on("r", 1.0, control_hz=10.0)), {}, "control rate differ: .* on long has 20 Hz; .* on r has 10 Hz"),
        ((LONG, on("r", 1.0, observations=make_spec(("hand",)).observations)), {},
         r"observations differ: .* on long has state; .* on r has image.hand\[64, 64, 3\], state"),
        ((LONG, on("r", 1.0, actions=("yaw",), scale=(1.0,))), {},
         "action dimensions differ: .* on long has x gripper; .* on r has yaw"),
        ((LONG, on("r", 1.0).model_copy(update={"action": ARM.action.model_copy(update={"units": ("rad", "")})})), {},
         "action units differ: .* long has x m, gripper ±1 only; .* on r has x rad"),
        ((LONG, SLOW.model_copy(update={"embodiment": Embodiment(name="bare", num_joints=6, descriptor={})})), {},
         "bare has no descriptor, which distinguishes long: .*--embodiment one-hot"),
        (MEMBERS, {"descriptor_keys": ("only_long",)}, "slow has no descriptor entry only_long, which "
            "distinguishes long, slow, flat"),
        (MEMBERS, {"descriptor_keys": ("delay",)}, "descriptor_keys delay: the same on long, slow, flat"),
        (MEMBERS, {"descriptor_keys": ("reach",), "embodiment": "one-hot"},
        "descriptor_keys reach does nothing with embodiment one-hot"),
        (MEMBERS, {"network": "moe", "embodiment": "none"}, "network moe weights its experts by embodiment features"),
    ],
)  # fmt: skip
def test_refused(members, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(members, **changes)


def test_refused_later():
    policy = make()
    for spec, message in (
        (on("r", 1.0, ("object.dx", "gripper")), r"state entries differ: .* has goal.dx, goal.dy; .* has none of them"),
        (on("r", 1.0, actions=("x", "z"), scale=(0.1, 0.1)), r"action dimensions differ: .*; environment .* has also z"),
        (
            LONG.model_copy(update={"embodiment": Embodiment(name="bare", num_joints=6, descriptor={})}),
            "bare has no descriptor",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            policy.adapt_to(spec)
    joints = make((LONG, on("b", 2.0)), SMALL)
    with pytest.raises(SpecMismatch, match=r"joints are read, differ: .* has long, b; environment .* has r"):
        joints.adapt_to(on("r", 1.0))
    tasks = make((LONG, SLOW.model_copy(update={"task": "tabletop/PullCube"})))
    with pytest.raises(SpecMismatch, match="needs one of them: environment is tabletop/Reach"):
        tasks.adapt_to(LONG.model_copy(update={"task": "tabletop/Reach"}))
    with pytest.raises(ConfigError, match="no robot has state entries of the group cube"):
        make(student=SMALL.model_copy(update={"state_keys": ("cube",)}))
