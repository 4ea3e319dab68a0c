import numpy as np
import pytest
import torch

from rpd.core.distributed import SOLO
from rpd.datasets.action_chunks import ChunkSource
from rpd.datasets.behavior_cloning import DemoSource
from rpd.datasets.corrections import probabilities, steps_ahead
from rpd.datasets.deploy_log.corrections import corrected
from rpd.datasets.deploy_log.format import OPERATOR, Recorder
from rpd.datasets.reader import open_demos
from rpd.envs import registry
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.students.config import StudentConfig

pytest.importorskip("msgpack")
pytest.importorskip("h5py")
STEPS = [("student", 0.1)] * 3 + [(OPERATOR, 0.2)] * 2 + [("student", 0.3)] * 3
"""Source of each action of a recorded episode, and its first entry."""


def frame(who, x=0.0, gripper=1.0):
    return {"who": who, "raw": np.array([x, 0, 0, 0, 0, 0, gripper])}


def test_pauses_of_a_person_are_no_corrections():
    moved = [frame("student", 0.1), frame(OPERATOR, 0.1), frame(OPERATOR), frame(OPERATOR, 0.1), frame("student")]
    assert corrected(moved, 20).tolist() == [False, True, False, True, False]


def test_standing_still_while_the_gripper_closes_is_a_correction():
    frames = [frame("student", 0.1), *[frame(OPERATOR, gripper=-1.0)] * 14]
    assert corrected(frames, 20).tolist() == [False, *[True] * 10, *[False] * 4]


def test_steps_ahead_end_with_the_correction():
    assert steps_ahead(np.array([1, 1, 1, 0, 0, 1, 1], dtype=bool)).tolist() == [2, 1, 0, 0, 2, 1, 0]


@pytest.fixture(scope="module")
def spec():
    env = registry.make("tabletop/Reach", EnvConfig(num_envs=1))
    env.close()
    return env.spec


def record(path, spec, steps):
    """A record of one supervised episode of a robot that stands still."""
    recorder = Recorder(path, {"kind": "head", "spec": spec.model_dump_json(), "operator": "keyboard"})
    recorder.add({"kind": "episode", "seed": 0, "instruction": "go"})
    rest = np.zeros(7)
    for i, (who, x) in enumerate(steps):
        state = np.full(len(spec.state_names), i, dtype=np.float32)
        recorder.add({
            "kind": "tick", "tick": i, "time": i / 20, "joints": rest, "command": rest, "open": True, "clamps": [],
            "answer": i, "obs": {"state": state}, "success": False, **frame(who, x),
        })  # fmt: skip
    recorder.add({"kind": "end", "reason": "time is up", "fault": False})
    recorder.close()
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory, spec):
    return record(tmp_path_factory.mktemp("logs") / "a.rpdlog", spec, STEPS)


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demos") / "x"
    assert collect(folder, "tabletop/Reach", episodes=4, env__obs_mode="state", env__image_size=None) == 0
    return folder


def source(paths, spec, fraction=0.5):
    return DemoSource(paths, spec, StudentConfig(), torch.Generator().manual_seed(0), fraction)


def test_policy_of_a_supervised_record_is_not_imitated(log, spec):
    drawn = source([log], spec).draw(SOLO.share(200))
    assert set(drawn["actions"][:, 0].tolist()) == {np.float32(0.2)}
    assert set(drawn["obs", "state"][:, 0].tolist()) == {3.0, 4.0}


def test_corrections_are_a_fixed_fraction_of_the_draws(log, demos, spec):
    share = SOLO.share(4000)
    for fraction in (0.5, 0.9):
        mixed = source([demos, log], spec, fraction)
        index = mixed.indices(share)
        first = open_demos(demos).num_steps
        assert abs((index >= first).double().mean() - fraction) < 0.04
        assert set(index[index >= first].tolist()) == {first + 3, first + 4}
    assert len(mixed.states) == first + len(STEPS)  # the normalizer sees the states of the policy too
    assert probabilities(open_demos(demos), 0.5) is None


def test_chunk_ends_with_the_correction(log, spec):
    chunks = ChunkSource(source([log], spec), n_obs=2, horizon=4).draw(SOLO.share(50))
    assert set(chunks["actions"][..., 0].flatten().tolist()) == {np.float32(0.2)}
    at_first = chunks["obs", "state"][:, -1, 0] == 3
    assert (chunks["obs", "state"][at_first, 0, 0] == 2).all()  # the past is what the policy saw


def test_record_without_corrections(tmp_path, spec, demos, log):
    none = record(tmp_path / "none.rpdlog", spec, [("student", 0.1)] * 4)
    with pytest.raises(ConfigError, match="have no corrections: its operator never took over"):
        source([none], spec)
    index = source([demos, none], spec).indices(SOLO.share(500))
    assert index.max() < open_demos(demos).num_steps


def test_lerobot_keeps_the_corrections(log, tmp_path):
    pytest.importorskip("pyarrow")
    from rpd.datasets.lerobot.export import export

    export(open_demos(log), tmp_path / "out")
    again = open_demos(tmp_path / "out")
    assert again.is_supervised(0)
    assert again.demonstrated(0).tolist() == [who == OPERATOR for who, _ in STEPS]
