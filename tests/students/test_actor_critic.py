import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save
from tensordict import TensorDict

from rpd.envs.errors import ConfigError
from rpd.envs.privileged_state import ManipulationState, NavigationState
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.actor_critic import MAX_LOG_STD, ActorCritic
from rpd.students.config import StudentConfig
from rpd.students.io.files import digest

SMALL = StudentConfig(hidden_dims=(32, 32), image_feature_dim=16, image_channels=(8, 8))


def make_spec(cameras=(), scene=True):
    observations = {"state": ObsSpec(shape=(5,), dtype="float32")}
    observations |= {f"image.{c}": ObsSpec(shape=(64, 64, 3), dtype="uint8") for c in cameras}
    return EnvSpec(
        task="tabletop/PushCube",
        embodiment=Embodiment(name="panda", num_joints=7, descriptor={"reach": 0.855}),
        observations=observations,
        state_names=tuple(f"s{i}" for i in range(5)),
        action=ActionSpec(names=("x", "gripper"), units=("m", ""), scale=(0.1, 1.0), discrete=(False, True)),
        control_hz=20.0,
        max_episode_steps=50,
        reward="dense",
        scene=scene,
    )


def make_obs(n=6, cameras=()):
    images = {f"image.{c}": torch.randint(0, 256, (n, 64, 64, 3), dtype=torch.uint8) for c in cameras}
    return TensorDict(
        {"state": torch.randn(n, 5), "privileged": torch.randn(n, ManipulationState.dim), **images}, batch_size=[n]
    )


@pytest.fixture(params=["state", "images", "asymmetric", "state_estimator"])
def policy(request):
    torch.manual_seed(0)
    kinds = {"asymmetric_critic": request.param == "asymmetric", "state_estimator": request.param == "state_estimator"}
    cameras = ("hand", "base") if request.param in ("images", "state_estimator") else ()
    return ActorCritic(make_spec(cameras), SMALL.model_copy(update=kinds))


def obs_for(policy, n=6):
    return make_obs(n, [c.removeprefix("image.") for c in policy.spec.cameras])


def test_shapes_and_one_answer_by_three_ways(policy):
    obs = obs_for(policy)
    policy.update_normalization(obs)
    dist, value = policy(obs)
    assert dist.mean.shape == (6, 2) and value.shape == (6,)
    assert torch.equal(dist.mean, policy.distribution(obs).mean)
    assert torch.equal(value, policy.value(obs))
    assert torch.equal(policy.act(obs), dist.mode().clamp(-1, 1))
    action = policy.act(obs, deterministic=False, generator=torch.Generator().manual_seed(0))
    assert action.abs().max() <= 1 and set(action[:, 1].tolist()) <= {-1.0, 1.0}


def test_every_parameter_gets_a_gradient(policy):
    dist, value = policy(obs_for(policy))
    (dist.log_prob(torch.ones(6, 2)).sum() + value.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in policy.policy_parameters())
    rest = [p for n, p in policy.named_parameters() if n.startswith("state_estimator.")]
    assert len(rest) + len(policy.policy_parameters()) == len(list(policy.parameters()))
    assert all(p.grad is None for p in rest)


def test_acts_on_estimated_state():
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(("hand",)), SMALL.model_copy(update={"state_estimator": True}))
    obs = make_obs(3, ("hand",))
    looked = policy.augment_obs(obs)
    assert "state_estimate" not in set(obs.keys()) and torch.equal(looked["state_estimate"], policy.estimate_state(obs))
    blind = looked.exclude("image.hand")  # a belief stands for the images
    assert torch.equal(policy.distribution(blind).mean, policy.distribution(obs).mean)
    blind["state_estimate"] = blind["state_estimate"] + 1
    assert not torch.equal(policy.distribution(blind).mean, policy.distribution(obs).mean)
    plain, state = ActorCritic(make_spec(), SMALL), make_obs(2)
    assert plain.augment_obs(state) is state


@pytest.mark.parametrize("layout", [ManipulationState, NavigationState])
def test_only_the_critic_sees_privileged(layout):
    spec = make_spec().model_copy(update={"scene": layout is ManipulationState, "course": layout is NavigationState})
    policy = ActorCritic(spec, SMALL.model_copy(update={"asymmetric_critic": True}))
    a = make_obs()
    a["privileged"] = torch.randn(len(a), layout.dim)
    b = a.clone()
    b["privileged"] += 1
    assert torch.equal(policy.distribution(a).mean, policy.distribution(b).mean)
    assert not torch.equal(policy.value(a), policy.value(b))
    policy.act({"state": a["state"]})  # so it can be deployed without


def test_log_std_is_bounded_and_never_stuck():
    policy = ActorCritic(make_spec(), SMALL)
    torch.testing.assert_close(policy.log_std, torch.full((2,), SMALL.init_log_std))
    for extreme, bound in ((-20.0, SMALL.min_log_std), (20.0, MAX_LOG_STD)):
        policy.log_std_logit.data.fill_(extreme)
        torch.testing.assert_close(policy.log_std, torch.full((2,), bound))


def test_impossible_configurations():
    with pytest.raises(ConfigError, match=r"asymmetric_critic.*tabletop/PushCube"):
        ActorCritic(make_spec(scene=False), StudentConfig(asymmetric_critic=True))
    with pytest.raises(ConfigError, match="state_estimator needs privileged"):
        ActorCritic(make_spec(("hand",), scene=False), StudentConfig(state_estimator=True))
    with pytest.raises(ConfigError, match="state_estimator needs images"):
        ActorCritic(make_spec(), StudentConfig(state_estimator=True))
    with pytest.raises(ConfigError, match="init_log_std -5"):
        ActorCritic(make_spec(), StudentConfig(init_log_std=-5))


def test_default_sizes():
    spec = make_spec(("base",))
    assert ActorCritic(make_spec(), StudentConfig()).num_parameters < 300_000
    assert ActorCritic(spec, StudentConfig()).num_parameters < 500_000


def test_round_trip_is_bit_identical(policy, tmp_path):
    obs = obs_for(policy)
    policy.update_normalization(obs)
    policy.save_pretrained(tmp_path / "p")
    loaded = ActorCritic.from_pretrained(tmp_path / "p")
    assert loaded.spec == policy.spec and loaded.config == policy.config
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(policy.act(obs), loaded.act(obs)) and torch.equal(policy.value(obs), loaded.value(obs))
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["config.json", "model.safetensors"]


def edit(change, seal=True):
    """Change config.json as another version of the code might have written it, or (seal=False) as it never was."""

    def spoil(folder):
        data = json.loads((folder / "config.json").read_text())
        change(data)
        if seal:
            rest = {k: v for k, v in data.items() if k not in ("schema", "sha256")}
            data["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        (folder / "config.json").write_text(json.dumps(data))

    return spoil


def flip(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def retype(dtype):
    """Store weights as another type, with a digest that fits."""

    def spoil(folder):
        content = save({name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()})
        (folder / "model.safetensors").write_bytes(content)
        edit(lambda data: data.update(model=digest(content)))(folder)

    return spoil


def in_base(**changes):
    """A residual whose base is the policy itself, changed."""
    return lambda d: d.update(
        class_name="ResidualActorCritic", residual={}, base={k: d[k] for k in ("spec", "student")} | changes
    )


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, r"model\.safetensors: altered"),
        (cut("model.safetensors"), r"model\.safetensors: truncated"),
        (cut("config.json"), r"config\.json: not valid JSON"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: cannot be read \(No such file"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), r"config\.json: not valid JSON"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: (schema None|not valid JSON)"),
        (edit(lambda d: d["spec"]["action"].update(scale=[0.9, 1.0]), seal=False), r"config\.json: altered"),
        (edit(lambda d: d.update(schema=99)), r"config\.json: schema 99"),
        (edit(lambda d: d.update(class_name="Other")), r"config\.json: unknown policy class 'Other'"),
        (edit(lambda d: d["student"].update(hidden_dims=[8])), r"model\.safetensors: 'actor\.0\.bias' has shape \[32\].*\[8\]"),
        (edit(lambda d: d["student"].update(typo=1)), r"config\.json: field 'student\.typo'"),
        (
            edit(lambda d: d["student"].update(hidden_dims=[60_000, 60_000])),
            r"model\.safetensors: 'actor\.0\.bias' has .*\[60000\]",
        ),
        (edit(lambda d: d["student"].update(hidden_dims=[10**9])), r"config\.json: field 'student\.hidden_dims\.0'"),
        (edit(lambda d: d["student"].update(hidden_dims=[-1])), r"config\.json: field 'student\.hidden_dims\.0'"),
        (edit(lambda d: d["student"].update(hidden_dims=[])), r"config\.json: describes a policy|model\.safetensors: "),
        (lambda f: (f / "config.json").write_text("[" * 10**5), r"config\.json: not valid JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "a git-lfs pointer"),
        (retype(torch.int8), r"model\.safetensors: 'actor\.0\.bias' has shape \[32\] of int8, but .* \[32\] of float32"),
        (edit(lambda d: d["spec"].update(control_hz=1e9)), r"config\.json: field 'spec\.control_hz'"),
        (
            edit(lambda d: d.update(class_name="ResidualActorCritic")),
            r"config\.json: .*'ResidualActorCritic', but not its resid",
        ),
        (edit(lambda d: d.update(class_name="GeneralistActorCritic")), r"config\.json: .*, but not its generalist"),
        (edit(lambda d: d.update(class_name="DiffusionPolicy")), r"config\.json: .*, but not its diffusion"),
        (edit(in_base(class_name="Other")), r"config\.json: unknown policy class 'Other'"),
        (edit(in_base(class_name="DiffusionPolicy")), r"config\.json: .* cannot be a base"),
        (edit(lambda d: d["spec"].pop("task")), r"config\.json: field 'spec\.task'"),
    ],
)
def test_damage_is_named_in_one_line(spoil, message, tmp_path):
    ActorCritic(make_spec(), SMALL).save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        ActorCritic.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
