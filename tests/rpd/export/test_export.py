from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rpd import export
from rpd.cli import main
from rpd.deploy import policy_process
from rpd.deploy.policy import wanted_spec
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, SpecMismatch
from rpd.envs.registry import make
from rpd.envs.specs import EnvSpec
from rpd.export import formats, runtime
from rpd.export.runtime import BadExport, BadObservation, Policy
from rpd.export.write import write
from rpd.policies.exported import ExportedPolicy
from rpd.policies.made_for import made_for
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import ResidualConfig
from rpd.students.io.files import file_digest
from rpd.students.residual import ResidualActorCritic
from tests.rpd.export.conftest import KINDS, READS, TASK, exported, small, trained, world


def recorded(policy, env, steps=5):
    """Observations [4, ...] of each step of other episodes than the self-test's, and what the policy did [4, A]."""
    rows, obs = [], env.reset(77)
    for _ in range(steps):
        rows.append((obs, policy.act(obs)))
        obs = env.step(rows[-1][1]).obs
    return rows


def given(obs, exported, policy):
    """As arrays: the newest frame of each camera, and the entries of the state that the exported policy reads."""
    index = [policy.spec.state_names.index(name) for name in exported.spec["state_names"]]
    return {
        key: (obs[key][:, index] if key == "state" else obs[key][..., -3:]).numpy() for key in exported.spec["observations"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_exported_policy_equals_trained_policy(kind, tmp_path, request):
    policy, written = request.getfixturevalue("mlp") if kind == "mlp" else exported(kind, tmp_path)
    written.reset()
    rows = recorded(policy, world(kind))
    actions = torch.stack([action for _, action in rows]).numpy()  # [5, 4, 7]
    batch = np.stack([written.act_batch(given(obs, written, policy), [None] * 4) for obs, _ in rows])
    assert batch.dtype == np.float32
    np.testing.assert_allclose(batch, actions, atol=1e-5)
    for i in range(4):
        written.reset()
        for (obs, _), action in zip(rows, actions, strict=True):
            alone = written.act({key: value[i] for key, value in given(obs, written, policy).items()}, "pick up the cube")
            np.testing.assert_allclose(alone, action[i], atol=1e-5)
    assert actions.std((0, 1)).max() > 0.01  # it is no constant
    assert written.error <= 1e-5 and written.about["kind"] == type(policy).__name__


def test_description_lists_inputs_and_outputs(mlp):
    policy, written = mlp
    assert EnvSpec.model_validate(written.spec) == policy.spec
    assert written.about["networks"] == {"policy": {"file": "policy.onnx", "inputs": ["state"]}}
    assert written.about["selftest"] == {"count": 100, "origin": f"recorded in {TASK}"}
    assert written.about["made_by"]["versions"]["torch"] == torch.__version__
    names = sorted(path.name for path in written.folder.iterdir())
    assert names == ["actors.py", "manifest.json", "policy.onnx", "policy.py", "requirements.txt", "selftest.npz", "spec.json"]


def test_asks_for_those_entries_alone_that_are_read(tmp_path):
    policy, written = exported("state_keys", tmp_path)
    names = policy.spec.entries(READS)
    assert tuple(written.spec["state_names"]) == names and written.spec["observations"]["state"]["shape"] == [len(names)]
    assert len(written.spec["state_scaled"]) == len(names) < len(policy.spec.state_names)


@pytest.mark.parametrize("kind", ["state_keys", "generalist"])
def test_for_another_robot(kind, tmp_path):
    trained(kind, tmp_path / "policy")
    policy = ActorCritic.from_pretrained(tmp_path / "policy")
    written = write(policy, tmp_path / "policy", made_for(tmp_path / "policy", None, "xarm6"), tmp_path / "out", robot="xarm6")
    env = make(TASK, EnvConfig(num_envs=4, robot="xarm6"))
    alone = ActorCritic.from_pretrained(tmp_path / "policy")
    alone.adapt_to(env.spec)
    assert written.spec["embodiment"]["name"] == "xarm6"
    assert written.about["selftest"]["origin"] == f"recorded in {TASK}"
    acting = ExportedPolicy(tmp_path / "out", env.spec)
    obs = env.reset(5)
    for _ in range(3):
        action = alone.act(obs)
        torch.testing.assert_close(acting.act(obs, [""] * 4), action, atol=1e-5, rtol=0)
        obs = env.step(action).obs


def test_robot_that_does_not_fit_is_refused(tmp_path):
    policy = trained("mlp", tmp_path / "policy")
    with pytest.raises(SpecMismatch, match=r"policy .* has panda; environment .* has xarm6"):
        write(policy, tmp_path / "policy", made_for(tmp_path / "policy", None, "xarm6"), tmp_path / "out", robot="xarm6")
    assert not (tmp_path / "out").exists()


def test_is_evaluated_like_any_policy(mlp, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = mlp[1].folder
    args = ["--episodes", "4", "--video", "False", "--out", "eval", "--num-threads", "1"]
    assert main.main(["eval", str(folder.parent / "policy"), str(folder), *args]) == 0
    records = [json.loads((path / "eval.json").read_text()) for path in sorted(Path("eval").iterdir())]
    assert records[0]["n"] == 4 and records[0]["mean_length"] == records[1]["mean_length"]
    assert records[0]["mean_return"] == pytest.approx(records[1]["mean_return"], abs=0.1)
    assert main.main(["eval", str(folder), "--robot", "xarm6", *args, "--out", "other"]) == 2
    assert "policy does not fit environment" in capsys.readouterr().err


def test_self_test_is_recorded_along_episodes(mlp):
    asked, answers = runtime.read_selftest((mlp[1].folder / runtime.SELFTEST).read_bytes())
    assert answers.shape == (100, 7) and len(np.unique(asked["state"], axis=0)) == 100


def altered(written, tmp_path, name, change):
    folder = tmp_path / "copy"
    shutil.copytree(written.folder, folder)
    change(folder / name)
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["policy.onnx", "spec.json", "selftest.npz", "policy.py", "actors.py", "requirements.txt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(flip, "altered"), (lambda path: path.write_bytes(path.read_bytes()[:-1]), "altered"), (Path.unlink, "cannot be read")],
)
def test_changed_file_is_refused(mlp, tmp_path, name, change, message):
    folder = altered(mlp[1], tmp_path, name, change)
    with pytest.raises(ConfigError, match=f"{name}: {message}"):
        export.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"../x": {}, "spec.json": {}, "selftest.npz": {}}}'])
def test_manifest_that_is_none_is_refused(mlp, tmp_path, text):
    folder = altered(mlp[1], tmp_path, runtime.MANIFEST, lambda path: path.write_text(text))
    with pytest.raises(BadExport, match=r"manifest\.json: truncated or altered"):
        Policy.load(folder)


def rewritten(written, tmp_path, name, change):
    """A folder whose manifest fits the changed file: as made by another program."""
    return altered(written, tmp_path, name, lambda path: resealed(path.parent, name, change))


def resealed(folder, name, change):
    change(folder / name)
    manifest = json.loads((folder / runtime.MANIFEST).read_text())
    manifest["files"][name] = file_digest(folder / name)
    (folder / runtime.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("bad", [1.5e-5, np.nan])
def test_policy_that_answers_otherwise_is_refused(mlp, tmp_path, bad):
    def change(path):
        with np.load(path) as arrays:
            rows = dict(arrays)
        rows["action"][57, 2] += bad
        np.savez(path, **rows)

    folder = rewritten(mlp[1], tmp_path, runtime.SELFTEST, change)
    with pytest.raises(BadExport, match=r"self-test failed: an action differs by (1\.\de-05|nan) .* may by 1e-05"):
        Policy.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("schema", 2, "schema 2, but this runtime reads schema 1"), ("format", "pt2", "format 'pt2' is not read, onnx alone")],
)
def test_unsupported_spec_value_is_refused(mlp, tmp_path, key, value, message):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    with pytest.raises(BadExport, match=message):
        Policy.load(rewritten(mlp[1], tmp_path, runtime.SPEC, change))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({}, "lacks 'state'; it has nothing"),
        ({"state": np.zeros(3)}, r"'state' has shape \[3\], and has to have \[40\]"),
        ({"state": np.zeros(40, dtype=complex)}, "'state' is complex128, and has to be float32"),
        ({"state": ["x"] * 40}, "'state' is <U1, and has to be float32"),
    ],
)
def test_observation_of_another_kind_is_refused(mlp, obs, message):
    with pytest.raises(BadObservation, match=message):
        mlp[1].act(obs)


def test_image_between_0_and_1_is_refused(tmp_path):
    policy, written = exported("cnn", tmp_path)
    obs = given(recorded(policy, world("cnn"), steps=1)[0][0], written, policy)
    with pytest.raises(BadObservation, match=r"'image.front' is float64, and has to be uint8, from 0 to 255"):
        written.act_batch(obs | {"image.front": obs["image.front"] / 255})


def test_frames_of_an_episode_are_not_seen_in_the_next(tmp_path):
    """Robot 1 begins anew in the third step: as if it had never seen anything."""
    policy, written = exported("frames", tmp_path)
    assert written.spec["observations"]["image.front"]["shape"] == [32, 32, 3] and written.spec["frames"] == 1
    obs = [given(obs, written, policy) for obs, _ in recorded(policy, world("frames"))]
    written.act_batch(obs[0]), written.act_batch(obs[1])
    written.reset(np.arange(4) == 1)
    mixed = written.act_batch(obs[2])
    with pytest.raises(BadObservation, match="observations of 1 robots, and of 4 before"):
        written.act({key: rows[1] for key, rows in obs[2].items()})
    written.reset()
    anew = written.act_batch(obs[2])
    np.testing.assert_allclose(mixed[1], anew[1], atol=1e-6)
    assert np.abs(mixed - anew)[[0, 2, 3], :6].max(1).min() > 1e-3


WITHOUT_TORCH = """
import sys
import zipfile
for name in ("torch", "tensordict", "pydantic"):
    sys.modules[name] = None
import numpy as np
from policy import Policy
policy = Policy.load(sys.argv[1])
policy.reset()
print(policy.act({"state": np.zeros(40)}, "pick up the cube").tolist())
"""


def test_runs_from_its_folder_without_torch(mlp, tmp_path):
    policy, written = mlp
    command = [sys.executable, "-c", WITHOUT_TORCH, str(written.folder)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(written.folder)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = policy.act({"state": torch.zeros(1, 40)})[0].numpy()
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_rpd_loads_it_without_torch(mlp):
    code = "import pathlib, sys, rpd.export; rpd.export.load(pathlib.Path(sys.argv[1])); print({'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, mlp[1].folder], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.slow
def test_runs_in_an_environment_of_its_own(mlp, tmp_path):
    """As on a robot's computer: a new virtual environment with what requirements.txt says, and nothing else."""
    folder = shutil.copytree(mlp[1].folder, tmp_path / "policy")
    python, constraints = tmp_path / "venv/bin/python", Path(__file__).parents[3] / "constraints.txt"
    for words in (
        [sys.executable, "-m", "venv", tmp_path / "venv"],
        [python, "-m", "pip", "-q", "install", "-c", constraints, "-r", folder / "requirements.txt"],
    ):
        subprocess.run(words, check=True)
    done = subprocess.run([python, folder / "policy.py"], cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100 observations, largest difference" in done.stdout
    installed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert "onnxruntime" in installed and "torch" not in installed and "rpd" not in installed
    flip(folder / "policy.onnx")
    done = subprocess.run([python, folder / "policy.py"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "policy.onnx: altered" in done.stderr


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_export_from_the_command_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main.main([*arguments(), "--name", "x"]) == 0
    capsys.readouterr()
    assert main.main(["export", "runs/x"]) == 0
    told = capsys.readouterr().out
    assert "runs/x/export/onnx: " in told and "100 observations, recorded in tabletop/Reach: largest" in told
    assert main.main(["export", "runs/x"]) == 2
    assert "runs/x/export/onnx exists already" in capsys.readouterr().err
    assert main.main(["export", "runs/x/checkpoints/last", "--out", "y"]) == 0
    assert Path("y/policy.onnx").is_file() and not list(Path().glob(".*.tmp"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "unknown policy 'nowhere'"),
        (["empty"], "empty: is none: expected a run with checkpoints, a checkpoint, or a policy folder"),
        (["policy"], "policy is not in a run: set the output folder with --out"),
        (["damaged", "--out", "x"], "damaged/model.safetensors: altered"),
    ],
)
def test_bad_input_is_one_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained("mlp", tmp_path / "policy")
    flip(Path(shutil.copytree("policy", "damaged")) / "model.safetensors")
    Path("empty").mkdir()
    assert main.main(["export", *args]) == 2
    told = capsys.readouterr().err
    assert told.startswith("rpd export: ") and message in told and told.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "empty", "policy"]


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnxscript, which is not installed: pip install -e '\.\[export\]'"):
        formats.check()


def test_residual_of_a_teacher_is_not_exported(tmp_path):
    env = world("mlp")
    policy = ResidualActorCritic(env.spec, small(env).config, ResidualConfig(), "scripted")
    policy.save_pretrained(tmp_path / "policy")
    with pytest.raises(ConfigError, match="corrects teacher scripted, which is not part of it"):
        write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failed_selftest_leaves_no_folder(tmp_path, monkeypatch):
    policy = trained("mlp", tmp_path / "policy")
    monkeypatch.setattr(runtime, "TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="self-test failed"):
        write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_without_its_environment_observations_are_drawn(tmp_path, monkeypatch):
    policy = trained("mlp", tmp_path / "policy")

    def missing(*args):
        raise ConfigError("no such simulator")

    monkeypatch.setattr("rpd.export.examples.envs.make", missing)
    written = write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out")
    assert written.about["selftest"]["origin"] == "drawn at random (no such simulator)"
    asked, _ = runtime.read_selftest((tmp_path / "out" / runtime.SELFTEST).read_bytes())
    seen = policy.state_normalizer
    np.testing.assert_allclose(asked["state"].mean(0), seen.mean, atol=0.5)


def test_exported_policy_runs_on_a_robot(mlp):
    policy, written = mlp
    wanted = wanted_spec(str(written.folder), None, "panda")
    loaded = policy_process.load(str(written.folder), wanted)
    assert wanted == loaded.spec == policy.spec
    action = loaded.act({"state": np.full(40, 0.1, np.float32)}, "pick up the cube")
    np.testing.assert_allclose(action, policy.act({"state": torch.full((1, 40), 0.1)})[0], atol=1e-5)


class Planted:
    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


@pytest.mark.parametrize("format", ["pt2", "torchscript", "onnx"])
@pytest.mark.parametrize("how", ["eval", "policy.py", "load"])
def test_no_code_of_a_folder_is_run(mlp, tmp_path, monkeypatch, format, how):
    """A network that is a pickle, with a manifest that fits, whatever its spec says of its format."""
    monkeypatch.chdir(tmp_path)

    def plant(path):
        torch.save(Planted(), path)

    def claim(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": format}))

    folder = rewritten(mlp[1], tmp_path, "policy.onnx", plant)
    resealed(folder, runtime.SPEC, claim)
    if how == "load":
        with pytest.raises(BadExport, match=r"is not read, onnx alone|not an ONNX network"):
            Policy.load(folder)
    elif how == "eval":
        assert main.main(["eval", str(folder), "--episodes", "1", "--video", "False"]) == 2
    else:
        words = [sys.executable, folder / "policy.py"]
        done = subprocess.run(words, env={}, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert not Path("planted").exists()


def test_spec_that_is_damaged_is_one_line(mlp, tmp_path):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"networks": {"policy": {"file": "none.onnx"}}}))

    with pytest.raises(BadExport, match=r"spec\.json: damaged"):
        Policy.load(rewritten(mlp[1], tmp_path, runtime.SPEC, change))


def with_spec(change):
    def rewrite(path):
        about = json.loads(path.read_text())
        change(about)
        path.write_text(json.dumps(about))

    return rewrite


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(frames=10**9), "frames is 1000000000, and has to be a whole number from 1 to 64"),
        (lambda d: d.update(frames=0), "frames is 0"),
        (lambda d: d["spec"]["observations"]["state"].update(shape=[10**12]), "a side of observation 'state'"),
        (lambda d: d["spec"].update(control_hz=1e12), r"spec\.json: spec\.control_hz: "),
        (lambda d: d["spec"].update(max_episode_steps=-1), r"spec\.json: spec\.max_episode_steps: "),
        (lambda d: d["spec"].update(state_names=[]), r"spec\.json: spec: observation 'state' has shape"),
        (lambda d: d.update(spec=[]), r"spec\.json: damaged: "),
    ],
)
def test_numbers_without_bounds_are_refused(mlp, tmp_path, change, says):
    with pytest.raises(ConfigError, match=says) as caught:
        export.load(rewritten(mlp[1], tmp_path, runtime.SPEC, with_spec(change)))
    assert "\n" not in str(caught.value)


def claims_much(path):
    """A self-test whose header says that it unpacks to a terabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (100, 10**9)})
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("action.npy", header.getvalue())


@pytest.mark.parametrize("spoil", [claims_much, lambda p: p.write_bytes(b"PK"), lambda p: np.savez(p, other=np.zeros(3))])
def test_self_test_that_is_none_is_one_line(mlp, tmp_path, spoil):
    with pytest.raises(BadExport, match=r"selftest\.npz: damaged, or made for another policy") as caught:
        Policy.load(rewritten(mlp[1], tmp_path, runtime.SELFTEST, spoil))
    assert "\n" not in str(caught.value)
