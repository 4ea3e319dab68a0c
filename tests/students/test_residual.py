"""A residual starts as its base, adds what the equation says, carries its base along, and never changes it."""

import pytest
import torch

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import Embodiment
from rpd.policies import loading
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import ResidualConfig
from rpd.students.io import pretrained
from rpd.students.residual import BASE_ACTION, BASE_FEATURES, ResidualActorCritic
from rpd.teachers import registry
from rpd.teachers.adapters.student import base_of, outside_base
from tests.students.test_actor_critic import SMALL, make_obs, make_spec

NAMES = ("q.a", "dq.a", "object.dx", "object.dy", "gripper")
PANDA = make_spec().model_copy(update={"state_names": NAMES})


def on(robot="xarm6", scale=(0.1, 1.0), names=NAMES):
    """The same task on another robot."""
    body = Embodiment(name=robot, num_joints=6, descriptor={})
    action = PANDA.action.model_copy(update={"scale": scale})
    return PANDA.model_copy(update={"embodiment": body, "action": action, "state_names": names})


def make_base(**changes):
    torch.manual_seed(0)
    base = ActorCritic(PANDA, SMALL.model_copy(update=changes))
    torch.nn.init.normal_(base.actor[-1].weight)  # actions of every size, also beyond the range
    base.update_normalization(make_obs(100))
    return base


def make(base=None, spec=PANDA, **residual):
    return ResidualActorCritic(spec, SMALL, ResidualConfig(**residual), make_base() if base is None else base)


@pytest.mark.parametrize("residual", [{}, {"alpha_init": 1.0}, {"base_input": "features"}, {"base_logit_scale": 0.5}])
def test_starts_exactly_at_the_base(residual):
    base, obs = make_base(), make_obs(50)
    student = make(base, **residual)
    student.update_normalization(obs)
    assert torch.equal(student.act(obs), base.act(obs))
    student.set_progress(1.0)
    assert torch.equal(student.act(obs), base.act(obs))
    assert (base.act(obs).abs() == 1).any() and (base.act(obs).abs() < 1).any()


def test_action_matches_the_residual_equation():
    student = make("scripted", alpha=0.5, alpha_init=0.5, base_logit_scale=3.0)
    with torch.no_grad():
        student.actor[-1].bias.copy_(torch.tensor([0.3, -1.0]))
    obs = make_obs(3).set(BASE_ACTION, torch.tensor([[0.2, 1.0], [0.9, -1.0], [-1.0, 0.0]]))
    change = 0.5 * torch.tensor(0.3).tanh()
    expected = torch.stack([obs[BASE_ACTION][:, 0] + change, 3.0 * obs[BASE_ACTION][:, 1] - 0.5], dim=-1)
    torch.testing.assert_close(student.distribution(obs).raw, expected)
    assert student.act(obs)[1].tolist() == [1.0, -1.0]  # 0.9 + 0.146 is beyond what the robot executes


def test_alpha_grows_over_its_part_of_the_run():
    student = make(alpha=1.0, alpha_init=0.2, alpha_warmup_fraction=0.5)
    grown = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        student.set_progress(progress)
        grown.append(student.alpha.item())
    assert grown == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert ResidualConfig(alpha=1.0, alpha_init=0.0, alpha_warmup_fraction=0.0).alpha_at(0.0) == 1.0


@pytest.mark.parametrize("base_input", ["action", "features"])
def test_base_is_asked_once_per_observation(base_input, monkeypatch):
    student, obs, asked = make(base_input=base_input), make_obs(6), []
    propose = ActorCritic.act_with_features

    def counted(self, seen):
        asked.append(len(seen["state"]))
        return propose(self, seen)

    monkeypatch.setattr(ActorCritic, "act_with_features", counted)
    kept = student.augment_obs(obs)
    assert (BASE_FEATURES in kept.keys()) == (base_input == "features") and BASE_ACTION not in obs.keys()  # noqa: SIM118
    for _ in range(3):
        student(kept), student.distribution(kept), student.act(kept)
    student.value(obs)
    assert asked == [6]


def test_training_leaves_the_base_unchanged():
    student, obs = make(base_input="features"), make_obs(20)
    before = {k: v.clone() for k, v in student.base.state_dict().items()}
    params = student.policy_parameters()
    assert student.num_parameters == sum(p.numel() for p in params)
    optimizer = torch.optim.Adam(params, lr=1e-2)
    for _ in range(3):
        outputs = student(obs)
        (outputs.distribution.log_prob(torch.ones(20, 2)).mean() + outputs.value.mean()).backward()
        optimizer.step()
        student.update_normalization(obs)
    assert all(torch.equal(v, before[k]) for k, v in student.base.state_dict().items())
    assert all(p.grad is None for p in student.base.parameters())
    assert not torch.equal(student.act(obs), student.base.act(obs))


@pytest.mark.parametrize("deep", [False, True])
def test_saved_policy_contains_its_base(deep, tmp_path):
    base = make(alpha=0.7) if deep else make_base()
    student, obs = make(base, base_input="features", alpha_warmup_fraction=0.0), make_obs(9)
    torch.nn.init.normal_(student.actor[-1].weight)
    student.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = ActorCritic.from_pretrained(tmp_path)
    assert isinstance(again, ResidualActorCritic) and again.describe() == student.describe()
    assert torch.equal(again.act(obs), student.act(obs)) and torch.equal(again.value(obs), student.value(obs))
    assert pretrained.describe(tmp_path).base.class_name == type(base).__name__


def test_external_teacher_is_named_and_required(tmp_path):
    student = make("scripted:noisy")
    student.save_pretrained(tmp_path)
    again = ActorCritic.from_pretrained(tmp_path)
    assert again.outside == "scripted:noisy" and again.base is None
    with pytest.raises(ValueError, match=r"the base is teacher scripted:noisy: add its action"):
        again.act(make_obs())
    with pytest.raises(ConfigError, match="base scripted provides actions only"):
        make("scripted", base_input="features")


def test_base_of_another_robot_acts_in_physical_units():
    base, obs = make_base(state_keys=("object", "gripper")), make_obs(40)
    on_panda = base.act(obs)
    order = [4, 3, 2, 0, 1]
    there = on(scale=(0.2, 1.0), names=tuple(NAMES[i] for i in order))
    moved = make_obs(40)
    moved["state"] = obs["state"][:, order]
    student = make(base, there)
    raw = base.distribution(moved)
    torch.testing.assert_close(student.act(moved), base.act(moved))
    inside = on_panda[:, 0].abs() < 1
    torch.testing.assert_close(student.act(moved)[inside, 0], on_panda[inside, 0] / 2)  # +1 means twice as far there
    assert torch.equal(student.act(moved)[:, 1], on_panda[:, 1])
    torch.testing.assert_close(raw.std[:, 0], base.log_std[0].exp().expand(40) / 2)


@pytest.mark.parametrize(
    ("state_keys", "spec", "message"),
    [
        ((), on(), r"robot differ: policy .* has panda; environment .* has xarm6"),
        (("q", "object"), on(), r"robot, whose joints \(q\) are read, differ: .* panda; .* xarm6"),
        (("object",), on(names=("q.a", "dq.a", "object.dx", "goal.dy", "gripper")), r"has object.dy; .* none of them"),
        (("object",), on().model_copy(update={"control_hz": 10.0}), r"control rate differ: .* 20 Hz; .* 10 Hz"),
    ],
)
def test_base_that_does_not_fit_is_refused(state_keys, spec, message):
    with pytest.raises(SpecMismatch, match=message):
        make(make_base(state_keys=state_keys), spec)


def test_unknown_state_group_is_refused():
    with pytest.raises(ConfigError, match="group of state entries of tabletop/PushCube 'objects': did you mean object"):
        make_base(state_keys=("objects",))


def test_residual_stays_on_its_robot():
    student = make(make_base(state_keys=("object",)))
    with pytest.raises(SpecMismatch, match="panda"):
        student.adapt_to(on())


@pytest.mark.parametrize("how", ["resolve", "identity", "camera_request", "teacher", "train"])
def test_base_in_a_folder_may_not_name_a_file_that_is_sent(how, tmp_path):
    base = f"remote:ws://127.0.0.1:9,token_file={tmp_path / 'secret'}"
    policy = make(base)
    policy.save_pretrained(tmp_path / "policy")
    asks = {
        "resolve": lambda: loading.load_policy(tmp_path / "policy", PANDA),
        "identity": lambda: registry.identity(tmp_path / "policy"),
        "camera_request": lambda: registry.camera_request(str(tmp_path / "policy")),
        "teacher": lambda: registry.make(str(tmp_path / "policy"), PANDA),
        "train": lambda: outside_base(policy, PANDA, torch.device("cpu")),
    }
    with pytest.raises(ConfigError, match=r"token_file: a policy may not name a file that is sent.*RPD_SERVE_TOKEN"):
        asks[how]()


def test_external_base_is_described(tmp_path, capsys):
    cases = [("remote:ws://h:1", "observations go to its server"), ("sb3:/x.zip", "loaded from"), ("scripted", "")]
    for base, says in cases:
        held = ",token=withheld" if base.startswith("remote") else ""
        make(base).save_pretrained(tmp_path / base[:3])
        assert base_of(tmp_path / base[:3]) == base_of(tmp_path / base[:3]) == base + held
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == bool(says) == said.count(base)  # once
