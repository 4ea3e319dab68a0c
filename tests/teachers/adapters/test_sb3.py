"""stable-baselines3: the same actions as its own, also behind VecNormalize; what is not understood is refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.teachers import registry
from rpd.teachers.adapters import pickled, sb3, sb3_normalize

sb3_lib = pytest.importorskip("stable_baselines3")
gymnasium = pytest.importorskip("gymnasium")
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

ON, OFF = ("PPO", "A2C"), ("SAC", "TD3", "DDPG")
S, A = 5, 3
CLIP, EPSILON = 2.0, 1e-3


class Toy(gymnasium.Env):
    """States of very different sizes, so that unnormalized ones saturate a policy."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (S,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (A,), np.float32)

    def __init__(self):
        self.random, self.t = np.random.default_rng(0), 0

    def observation(self):
        return (self.random.normal(size=S) * [1, 10, 0.1, 3, 100] + [0, 5, 1, 0, 50]).astype(np.float32)

    def reset(self, seed=None, options=None):
        self.t = 0
        return self.observation(), {}

    def step(self, action):
        self.t += 1
        return self.observation(), float(action.sum()), False, self.t >= 8, {}


def spec(states=S):
    return EnvSpec(
        task="toy/Toy", embodiment=Embodiment(name="toy", num_joints=1, descriptor={}),
        observations={"state": ObsSpec(shape=(states,), dtype="float32")}, state_names=tuple(f"s{i}" for i in range(states)),
        action=ActionSpec(names=("x", "y", "z"), units=("m",) * A, scale=(1.0,) * A, discrete=(False,) * A),
        control_hz=20, max_episode_steps=8, reward="dense",
    )  # fmt: skip


def learned(algorithm, path, normalize=None):
    """Train a little, save the model, and its statistics beside it as model.pkl; what it does at 16 states."""
    env = DummyVecEnv([Toy, Toy])
    if normalize is not None:
        env = VecNormalize(env, clip_obs=CLIP, epsilon=EPSILON, **normalize)
    steps = {"PPO": {"n_steps": 8, "batch_size": 16}, "A2C": {"n_steps": 8}}.get(algorithm, {"learning_starts": 8})
    kwargs = {"policy_kwargs": {"net_arch": [8, 8]}, "seed": 0, "device": "cpu", **steps}
    model = getattr(sb3_lib, algorithm)("MlpPolicy", env, **kwargs).learn(32)
    model.save(path)
    states = np.concatenate([[Toy().observation()], np.random.default_rng(1).normal(size=(15, S)) * 20]).astype(np.float32)
    if normalize is not None:
        env.save(str(path.with_suffix(".pkl")))
    action, _ = model.predict(states if normalize is None else env.normalize_obs(states), deterministic=True)
    return states, action


def acts(name, states):
    teacher = registry.make(name, spec())
    return teacher.act(TensorDict({"state": torch.from_numpy(states)}, [len(states)]), [""] * len(states)).numpy()


@pytest.mark.parametrize("normalize", [None, {}, {"norm_reward": False}, {"norm_obs": False}], ids=str)
@pytest.mark.parametrize("algorithm", [*ON, *OFF])
def test_acts_as_stable_baselines3_does(algorithm, normalize, tmp_path):
    states, action = learned(algorithm, tmp_path / "model.zip", normalize)
    option = "normalize=none" if normalize is None else f"normalize={tmp_path / 'model.pkl'}"
    np.testing.assert_allclose(acts(f"sb3:{tmp_path / 'model.zip'},{option}", states), action, atol=1e-6)
    if normalize == {}:
        policy = sb3.load(tmp_path / "model.zip", str(tmp_path / "model.pkl"))
        assert policy.normalizer.limit == CLIP and policy.normalizer.mean.dtype == torch.float64
        assert policy.normalizer(torch.from_numpy(states)).abs().max() == CLIP  # it is reached, and so is tested


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models by name: with and without VecNormalize, that learned on the policy and off it, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for name, algorithm, normalize in (("on", "PPO", None), ("on normalized", "PPO", {}), ("off", "SAC", None)):
        path = folder / name / "model.zip"
        path.parent.mkdir()
        learned(algorithm, path, normalize)
        made[name] = path
    return made


@pytest.mark.parametrize(
    ("name", "beside", "option", "message"),
    [
        ("on", (), None, None),
        ("on", ("vecnormalize.pkl",), None, "was trained without VecNormalize, but .*vecnormalize.pkl exists"),
        ("on", ("vecnormalize.pkl",), "none", None),
        ("on normalized", (), None, "was trained behind VecNormalize, and its statistics are in another file"),
        ("on normalized", (), "none", "was trained behind VecNormalize: normalize=none would change its inputs"),
        ("on normalized", ("vecnormalize.pkl",), None, None),
        ("on normalized", ("vec_normalize.pkl",), None, None),
        ("on normalized", ("model/vecnormalize.pkl",), None, None),  # stable-baselines3's zoo
        ("on normalized", ("vecnormalize.pkl", "model/vecnormalize.pkl"), None, "may be its statistics: add normalize=FILE"),
        ("on normalized", (), "nowhere.pkl", "nowhere.pkl: cannot be read"),
        (
            "off",
            (),
            None,
            "does not store whether it was trained behind VecNormalize: add normalize=FILE, .* or normalize=none",
        ),
        ("off", (), "none", None),
        ("off", ("vecnormalize.pkl",), None, None),
    ],
)
def test_statistics_are_found_or_asked_for(models, name, beside, option, message, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(models[name].read_bytes())
    for file in beside:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(models["on normalized"].with_suffix(".pkl").read_bytes())
    if message is None:
        assert (sb3.load(path, option).normalizer is not None) == bool(beside and option is None)
    else:
        with pytest.raises(ConfigError, match=message) as error:
            sb3.load(path, option)
        assert str(error.value).count("\n") == 0


def test_statistics_of_the_same_step_go_before_others(models, tmp_path):
    """As CheckpointCallback names them, beside those of the end of the training."""
    model = tmp_path / "rl_model_32_steps.zip"
    model.write_bytes(models["on normalized"].read_bytes())
    content = models["on normalized"].with_suffix(".pkl").read_bytes()
    for name in ("rl_model_vecnormalize_32_steps.pkl", "rl_model_vecnormalize_64_steps.pkl", "vecnormalize.pkl"):
        (tmp_path / name).write_bytes(content)
    assert sb3_normalize.find(model) == [tmp_path / "rl_model_vecnormalize_32_steps.pkl"]
    (tmp_path / "rl_model_vecnormalize_32_steps.pkl").unlink()
    assert sb3_normalize.find(model) == [tmp_path / "vecnormalize.pkl"]


def test_description_shows_state_normalization(models):
    from rpd.teachers.adapters.sb3 import describe

    normalized = str(models["on normalized"])
    shown = describe(normalized, {"normalize": normalized.replace(".zip", ".pkl")}, spec(), "")
    assert shown.inputs[0].sent == "5 numbers, normalized by the statistics of VecNormalize, clipped to ±2"
    assert describe(str(models["on"]), {}, spec(), "").inputs[0].sent == "5 numbers, unchanged"


# Statistics files -------------------------------------------------------------------------------------------------------


class Planted:
    """Pickled code: it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nothing_of_a_pickle_runs(models, protocol, tmp_path):
    file, trace = tmp_path / "bad.pkl", tmp_path / "trace"
    for bad in (Planted(trace), {"obs_rms": Planted(trace)}, [Planted(trace)]):
        file.write_bytes(pickle.dumps(bad, protocol))
        with pytest.raises(ConfigError, match=r"not statistics written by stable-baselines3's VecNormalize\.save"):
            sb3_normalize.load(file)
    described = pickled.read(pickle.dumps(Planted(trace), protocol))
    assert described.name.endswith(".open") and described.args == (str(trace), "w") and not trace.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_data_are_read_as_pickle_reads_them(protocol):
    data = {"a": [1, -2, 2**40, 0.5, None, True], ("b", 1): {"c": b"\x00\xff", "é": "ü" * 300}, 3: (), 4: (1,)}
    assert pickled.read(pickle.dumps(data, protocol)) == data
    for values in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), np.arange(3),
                   np.float64(0.25), np.array([True, False]), np.arange(4.0, dtype=">f8")):  # fmt: skip
        read = pickled.array(pickled.read(pickle.dumps(values, protocol)))
        np.testing.assert_array_equal(read, values)
    with pytest.raises(ValueError, match="something other than numbers"):
        pickled.array(pickled.read(pickle.dumps(np.array([object()]), protocol)))


def test_damaged_file_is_refused_or_means_the_same(models, tmp_path):
    whole = models["on normalized"].with_suffix(".pkl").read_bytes()
    file, known = tmp_path / "bad.pkl", sb3_normalize.load(models["on normalized"].with_suffix(".pkl"))
    random = np.random.default_rng(0)
    for cut in random.integers(0, len(whole), 100).tolist():
        file.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"bad.pkl: not statistics"):
            sb3_normalize.load(file)
    for place in random.integers(0, len(whole), 200).tolist():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:  # a flipped bit of a number is a number: no checksum is in the file
            assert sb3_normalize.load(file) is None or len(known.mean) == S
        except ConfigError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)


def changed(path, out, change):
    """Write the statistics in `path` with another state."""
    with open(path, "rb") as file:
        saved = pickle.load(file)
    vars(saved).update(class_attributes={}, venv=None, returns=None)  # which it does not save
    change(saved)
    with open(out, "wb") as file:
        pickle.dump(saved, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: setattr(s, "obs_rms", {"a": s.obs_rms}), "observations are a Dict"),
        (lambda s: setattr(s, "norm_obs_keys", ["a"]), "observations are a Dict"),
        (lambda s: delattr(s, "clip_obs"), "its clip_obs are missing"),
        (lambda s: setattr(s, "epsilon", float("nan")), "not statistics: not finite, or negative"),
        (lambda s: s.obs_rms.mean.__setitem__(0, np.inf), "not statistics: not finite, or negative"),
        (lambda s: s.obs_rms.var.__setitem__(0, -1), "not statistics: not finite, or negative"),
        (lambda s: setattr(s.obs_rms, "mean", np.zeros((2, 2))), "must be vectors"),
        (lambda s: setattr(s, "obs_rms", 3), "it holds int, not stable_baselines3"),
    ],
)
def test_statistics_that_are_not_understood_are_refused(models, change, message, tmp_path):
    changed(models["on normalized"].with_suffix(".pkl"), tmp_path / "x.pkl", change)
    with pytest.raises(ConfigError, match=message):
        sb3_normalize.load(tmp_path / "x.pkl")


def test_statistics_of_another_size_are_refused(models, tmp_path):
    changed(models["on normalized"].with_suffix(".pkl"), tmp_path / "x.pkl",
            lambda s: vars(s.obs_rms).update(mean=np.zeros(7), var=np.ones(7)))  # fmt: skip
    with pytest.raises(ConfigError, match=r"x.pkl has statistics of 7 entries, and .*model.zip reads 5"):
        sb3.load(models["on normalized"], str(tmp_path / "x.pkl"))


# Models -----------------------------------------------------------------------------------------------------------------


def edited(path, out, data=lambda d: None, weights=lambda w: None):
    """Write a model with other data or tensors."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        about, tensors = json.loads(old.read("data")), torch.load(io.BytesIO(old.read("policy.pth")), weights_only=True)
        data(about), weights(tensors)
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        new.writestr("data", json.dumps(about))
        new.writestr("policy.pth", buffer.getvalue())
    return out


def option(**options):
    return lambda d: d["policy_kwargs"].update(options)


def space(name, **entries):
    return lambda d: d[name].update(entries)


def of(module):
    return lambda d: d["policy_class"].update(__module__=module)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (of("sb3_contrib.crossq.policies"), "defined in sb3_contrib.crossq.policies, which is not supported"),
        (of("sb3_contrib.common.recurrent.policies"), "recurrent"),
        (of("sb3_contrib.ars.policies"), "ars"),
        (of("stable_baselines3.dqn.policies"), "dqn"),
        (of("__main__"), "defined in __main__"),
        (lambda d: d.pop("policy_class"), "defined in None"),
        (lambda d: d.update(use_sde=True), "gSDE"),
        (option(squash_output=True), "squash_output=True"),
        (option(use_sde=True), "use_sde=True"),
        (option(activation_fn="<class 'torch.nn.modules.activation.Mish'>"), "activation Mish is not supported"),
        (option(activation_fn="<class '__main__.ReLU'>"), "activation <class '__main__.ReLU'> is not supported"),
        (option(activation_fn="functools.partial(<class 'torch.nn.modules.activation.ReLU'>)"), "activation functools"),
        (option(features_extractor_class="<class '__main__.Mine'>"), "features extractor .*Mine"),
        (option(features_extractor_kwargs={"width": 3}), "features extractor"),
        (option(dropout=0.1, layer_norm=True), "options that are not understood: dropout, layer_norm"),
        (space("observation_space", **{":type:": "<class 'gymnasium.spaces.dict.Dict'>"}), "observation_space is .*Dict"),
        (space("observation_space", _shape=[4, 5]), r"observation_space is .*\[4, 5\] of float32"),
        (space("observation_space", dtype="uint8"), "observation_space is .*uint8"),
        (space("action_space", **{":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}), "action_space is .*Discrete"),
        (space("action_space", high="[2. 2. 2.]"), r"actions have high \[2.0, 2.0, 2.0\]"),
        (space("action_space", low="[0. 0. -1.]"), "actions have low"),
        (lambda d: d.pop("action_space"), "action_space is of unknown type"),
        (space("observation_space", _shape=5), "observation_space is .* 5 of float32"),
        (of(["sb3"]), "defined in .'sb3'., which is not supported"),
        (lambda d: d.update(policy_class="MlpPolicy"), "its policy_class is 'MlpPolicy', not what stable-baselines3 saves"),
        (lambda d: d.update(policy_kwargs=[1]), "its policy_kwargs is"),
    ],
)
def test_unsupported_model_data_is_refused(models, data, message, tmp_path):
    path = edited(models["on"], tmp_path / "model.zip", data)
    with pytest.raises(ConfigError, match=message) as error:
        sb3.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def moved(old, new):
    def change(weights):
        for name in [name for name in weights if name.startswith(old)]:
            weights[new + name.removeprefix(old)] = weights.pop(name)

    return change


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("on", lambda w: w.update({"lstm_actor.weight_ih_l0": torch.zeros(4, 5)}), "tensors lstm_actor.weight_ih_l0 are not"),
        ("on", lambda w: w.update({"features_extractor.cnn.0.weight": torch.zeros(4)}), "features_extractor.cnn.0.weight"),
        ("on", moved("mlp_extractor.policy_net.0", "mlp_extractor.shared_net.0"), r"policy_net\.2 .* not a linear one"),
        ("on", moved("mlp_extractor.policy_net.2", "mlp_extractor.policy_net.3"), r"policy_net\.3 .* not a linear one"),
        ("on", lambda w: w.pop("mlp_extractor.policy_net.0.bias"), r"policy_net\.0 \(weight\) is not a linear one"),
        ("on", lambda w: w.update(log_std=torch.zeros(8, 3)), "gSDE"),
        ("on", lambda w: w.update({"action_net.weight": torch.zeros(3, 9)}), "does not fit|not a model"),
        ("off", lambda w: w.update({"actor.latent_pi.0.running_mean": torch.zeros(8)}), r"latent_pi\.0 .*running_mean"),
        ("off", lambda w: w.update({"actor.latent_pi.1.weight": torch.zeros(8)}), r"latent_pi\.1 .* not a linear one"),
        ("on", lambda w: w.update(log_std=torch.zeros(1)), "its log_std has 1 numbers for 3 action dimensions"),
        ("off", lambda w: w.update({"actor.log_std.weight": torch.zeros(3, 7)}), "log_std is not of the size"),
        (
            "off",
            lambda w: w.update(
                {
                    f"actor.log_std.{x}": torch.zeros(1, 8)[:, 0] if x == "bias" else torch.zeros(1, 8)
                    for x in ("weight", "bias")
                }
            ),
            "log_std is not of the size",
        ),
        ("on", lambda w: w.update({"action_net.bias": torch.tensor(0.0)}), r"has biases \[\] for 3 outputs"),
        ("on", lambda w: w.update(log_std=3), "'log_std' is of type int, and tensors by name are expected"),
        ("on", lambda w: w.update({3: torch.zeros(2)}), "3 is of type Tensor"),
        ("on", lambda w: w.update(log_std=torch.zeros(3).to_sparse()), "tensor 'log_std' is float32, torch.sparse_coo"),
        (
            "on",
            lambda w: w.update(log_std=torch.zeros(3, device="meta")),
            "tensor 'log_std' is .* meta: weights must be dense",
        ),
    ],
)
def test_every_tensor_is_used_or_refused(models, name, weights, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        sb3.load(edited(models[name], tmp_path / "model.zip", weights=weights), "none")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64, torch.int64], ids=str)
def test_weights_that_are_not_floating_point_are_refused(models, dtype, tmp_path):
    path = edited(
        models["on"], tmp_path / "x.zip", weights=lambda w: w.update({"action_net.weight": torch.ones(3, 8).to(dtype)})
    )
    with pytest.raises(ConfigError, match=r"x.zip: tensor 'action_net.weight' is \w+, .*floating point of 16 bits or more"):
        sb3.load(path, "none")


def test_repacked_model_with_any_damaged_byte_is_read_or_refused(models, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(models["on"]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    sb3.load(path, "none")
    content = path.read_bytes()
    for i in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:i] + bytes([content[i] ^ 64]) + content[i + 1 :])
        with contextlib.suppress(ConfigError):
            sb3.load(path, "none")


def test_trpo_and_tqc_are_the_same_actors(models, tmp_path):
    path = edited(models["off"], tmp_path / "model.zip", of("sb3_contrib.tqc.policies"))
    assert sb3.load(path, "none").squash


def test_stacked_frames_differ_in_size(models):
    with pytest.raises(SpecMismatch, match=r"policy has 5; environment .* has 10"):
        registry.make(f"sb3:{models['on']}", spec(10))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_non_finite_state_gives_non_finite_actions(models, bad):
    states = np.zeros((2, S), np.float32)
    states[1, 2] = bad
    for name, option in (("on", "none"), ("on normalized", models["on normalized"].with_suffix(".pkl"))):
        answer = acts(f"sb3:{models[name]},normalize={option}", states)
        assert np.isfinite(answer[0]).all() and np.isnan(answer[1]).all()


def test_unsupported_pickle_instruction_is_named():
    for content in (b"cos\nsystem\n(S'x'\ntR.", b"\x80\x04Pabc\n.", b"\x80\x02\x82\x01."):
        with pytest.raises(ValueError, match=r"instruction|damaged"):
            pickled.read(content)


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"^teacher sb3:nowhere.zip: no such file$"):
        sb3.identity("nowhere.zip", {})
