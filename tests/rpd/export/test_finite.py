"""NaN, Inf and magnitudes that nothing has, at both ends of an exported policy: refused by name, on a robot's computer too."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from rpd.envs import finite
from rpd.envs.errors import RunFault
from rpd.export import actors
from rpd.export.runtime import BadObservation
from rpd.export.write import write
from rpd.policies.exported import ExportedPolicy
from rpd.policies.made_for import made_for
from rpd.students.training_range import training_range
from tests.rpd.export.conftest import KINDS, READS, trained, world

UNSOUND = (np.nan, np.inf, -np.inf, 1e30, -1e30)


def test_limit_is_the_environments():
    assert actors.LIMIT == finite.LIMIT


@pytest.fixture
def written(mlp):
    return mlp[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", UNSOUND)
def test_every_entry_of_the_state_is_checked_and_named(written, bad, dtype):
    names = written.spec["state_names"]
    for i, name in enumerate(names):
        state = np.full(len(names), 0.1, dtype)
        state[i] = bad
        with pytest.raises(BadObservation, match="observation 'state' is no number that can be measured") as error:
            written.act({"state": state})
        assert str(error.value).endswith(f": {name} = {dtype(bad):g}")
    assert np.isfinite(written.act({"state": np.full(len(names), 0.1, dtype)})).all()


def test_alone_on_a_robots_computer(mlp):
    """The folder's own policy.py, without this project and without torch."""
    code = """
import sys
import numpy as np
from policy import BadObservation, Policy
policy = Policy.load(".")
state = np.zeros(40)
state[3] = np.inf
try:
    policy.act({"state": state})
except BadObservation as error:
    print(error)
assert not {"torch", "envs", "rpd"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-IB", "-c", "import sys; sys.path.insert(0, '.')\n" + code], cwd=mlp[1].folder,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip().endswith(f": {mlp[1].spec['state_names'][3]} = inf")


@pytest.mark.parametrize("bad", UNSOUND)
def test_non_finite_network_output_is_refused(bad):
    run = actors.checked(lambda inputs: np.array([[0.0, bad]], np.float32), "denoiser")
    with pytest.raises(actors.BadAnswer, match=r"network 'denoiser' answered \[1\] = "):
        run([])


def test_non_finite_policy_is_not_exported(tmp_path):
    policy = trained("mlp", tmp_path / "policy")
    with torch.no_grad():
        policy.actor[-1].bias[-1] = torch.nan  # the gripper's
    with pytest.raises(RunFault, match="non-finite values from the policy"):
        write(policy, tmp_path / "policy", made_for(tmp_path / "policy"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluation_error_is_one_line(mlp):
    env = world("mlp")
    policy, obs = ExportedPolicy(mlp[1].folder, env.spec), env.reset(0)
    obs["state"][2, 0] = torch.nan
    with pytest.raises(RunFault, match=rf"policy .*: observation 'state' .*: {env.spec.state_names[0]} = nan"):
        policy.act(obs, [""] * 4)


def test_entries_outside_of_the_training_are_reported_with_their_distance(mlp):
    policy, written = mlp
    names, training = written.spec["state_names"], written.about["training"]
    assert set(training["names"]) == {n for n, scaled in zip(names, written.spec["state_scaled"], strict=True) if not scaled}
    by_name = dict(zip(training["names"], zip(training["mean"], training["std"], strict=True), strict=True))
    np.testing.assert_allclose(training["mean"], policy.state_normalizer.mean[~policy.state_normalizer.scaled])
    state = np.array([by_name[name][0] if name in by_name else 0.0 for name in names])
    assert written.outside_training({"state": state}) == {}
    far, near = training["names"][0], training["names"][1]
    state[names.index(far)] -= 7.5 * by_name[far][1]
    state[names.index(near)] += 4.9 * by_name[near][1]
    assert written.outside_training({"state": state}) == {far: pytest.approx(-7.5, rel=1e-3)}
    with pytest.raises(BadObservation, match="no number"):
        written.outside_training({"state": np.where(np.arange(len(state)) == 0, np.nan, state)})


def test_export_without_a_training_range_reports_nothing(mlp):
    """Exports of earlier versions."""
    written = mlp[1]
    about = {**written.about, "spec": written.spec}
    del about["training"]
    older = type(written)(written.folder, about, {"policy": lambda inputs: inputs[0]})
    assert older.outside_training({"state": np.full(len(written.spec["state_names"]), 1e5)}) == {}


def test_training_range_of_a_generalist_has_the_entries_of_its_robot():
    env, policy = world("generalist"), KINDS["generalist"][1](world("generalist"))
    policy.adapt_to(env.spec)
    found = training_range(policy, env.spec)
    assert (
        set(found["names"]) <= set(env.spec.state_names) and len(found["names"]) == len(found["mean"]) == len(found["std"]) > 0
    )
    groups = {name.split(".")[0] for name in found["names"]}
    assert groups <= set(READS)
