"""Demonstrations read back: rows for training, statistics, files of others, and what is said of damaged ones."""

import json
import shutil

import numpy as np
import pytest
import torch

from rpd.cli.main import main
from rpd.datasets.reader import open_demos
from rpd.datasets.statistics import action_statistics, dataset_statistics
from rpd.datasets.steps import Rows
from rpd.envs.errors import ConfigError
from rpd.envs.rendering.vulkan import render_settings

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def demos(recorded):
    return open_demos(recorded)


@pytest.mark.parametrize("max_bytes", [2**30, 3000, 0], ids=["in memory", "images on the disk", "on the disk"])
def test_rows_are_the_steps_of_the_episodes(demos, max_bytes):
    rows = Rows(demos, ("image.front", "label", "state", "success"), max_bytes)
    assert set(rows.tensors) == {2**30: {*rows.keys}, 3000: {"success"}, 0: set()}[max_bytes]
    assert len(rows) == demos.num_steps == sum(e.length for e in demos.episodes)
    index = torch.tensor([0, len(rows) - 1, 5, 5, demos.episodes[0].length])
    batch = rows[index]
    assert batch["image.front"].shape == (5, 16, 16, 3) and batch["image.front"].dtype == torch.uint8
    places = zip(rows.episode[index].tolist(), rows.step[index].tolist(), strict=True)
    for i, (episode, step) in enumerate(places):
        whole = demos[episode]
        for key in rows.keys:
            part = whole.obs[key] if key in whole.obs else whole.steps[key]
            assert np.array_equal(batch[key][i].numpy(), part[step]), key
    first, last = index[4], index[1]
    assert (rows.episode[first], rows.step[first], rows.episode[last]) == (1, 0, 11)
    assert rows.instructions(index)[1] == demos.episodes[11].instruction


def test_selections(demos):
    push = demos.select(["tabletop/PushCube"])
    assert push.tasks == ["tabletop/PushCube"] == list(push.specs) and len(push) == 6
    assert len(demos.select(success=True)) == 12
    with pytest.raises(ConfigError, match="did you mean tabletop/Reach"):
        demos.select(["tabletop/Reech"])
    with pytest.raises(ConfigError, match=r"unknown part of the demonstrations in .* 'image.frnt': did you mean image.front"):
        demos.read(0, "image.frnt")


def test_state_of_several_tasks_is_the_intersection(demos):
    """Only Reach has a goal in the air."""
    reach, push = demos.select(["tabletop/Reach"]), demos.select(["tabletop/PushCube"])
    assert set(reach.state_names) - set(push.state_names) == {"goal.tcp_dx", "goal.tcp_dy", "goal.tcp_dz"}
    assert demos.state_names == push.state_names
    columns = [reach.state_names.index(name) for name in push.state_names]
    assert np.array_equal(demos.read(0, "state"), reach.read(0, "state")[:, columns])


def test_several_folders_read_as_one(recorded, collect, tmp_path, demos):
    assert collect(tmp_path / "y", "tabletop/Reach", episodes=2, seed=9) == 0
    both = open_demos(recorded, tmp_path / "y")
    assert len(both) == 14 and both.episodes[12].seed == 9
    assert np.array_equal(both.read(3, "label"), demos.read(3, "label"))


def test_statistics_by_hand():
    """0, 1, ..., 100: quantiles are exact; a variance of the population is (n^2 - 1) / 12."""
    actions = np.stack([np.arange(101), np.tile([-1.0, 1.0, 1.0, 1.0], 26)[:101]], axis=1).astype(np.float32)
    found = action_statistics(actions, (False, True))
    assert found["mask"] == [True, False]
    expected = {"mean": 50, "std": (10200 / 12) ** 0.5, "min": 0, "max": 100, "q01": 1, "q99": 99}
    assert {key: found[key][0] for key in expected} == pytest.approx(expected)
    assert (found["min"][1], found["max"][1], found["q01"][1], found["q99"][1]) == (-1, 1, -1, 1)
    assert found["mean"][1] == pytest.approx((75 - 26) / 101)


def test_dimension_without_any_range_is_not_normalised():
    actions = np.stack([np.linspace(-1, 1, 50), np.full(50, 0.3), np.eye(50)[0]], axis=1).astype(np.float32)
    assert action_statistics(actions, (False,) * 3)["mask"] == [True, False, True]


def test_statistics_are_of_the_labels(demos):
    found = dataset_statistics(demos, "table")
    labels = np.concatenate([episode.steps["label"] for episode in demos])
    assert list(found) == ["table"] and json.loads(json.dumps(found)) == found
    assert (found["table"]["num_transitions"], found["table"]["num_trajectories"]) == (len(labels), 12)
    assert found["table"]["action"]["mean"] == pytest.approx(labels.astype(float).mean(0))
    assert found["table"]["action"]["mask"] == [True] * 6 + [False]


def maniskill_file(path, episodes=2, steps=3, first_id=0):
    """A trajectory file in the layout of ManiSkill's RecordEpisode, obs_mode "rgbd"."""
    rng = np.random.default_rng(0)
    meta = {"env_info": {"env_id": "PushCube-v1", "env_kwargs": {"obs_mode": "rgbd"}, "max_episode_steps": 50}}
    meta |= {"commit_info": None, "source_type": "motionplanning", "episodes": []}
    with h5py.File(path, "w") as file:
        for i in range(episodes):
            group = file.create_group(f"traj_{i}", track_order=True)
            obs = group.create_group("obs", track_order=True)
            agent, extra = obs.create_group("agent", track_order=True), obs.create_group("extra", track_order=True)
            agent["qpos"] = np.full((steps + 1, 9), i, np.float32)
            agent["qvel"] = np.full((steps + 1, 9), 10 + i, np.float32)
            extra["tcp_pose"] = np.full((steps + 1, 7), 20 + i, np.float32)
            extra["is_grasped"] = np.arange(steps + 1) > 1
            obs["sensor_param/base_camera/intrinsic_cv"] = np.zeros((steps + 1, 3, 3), np.float32)
            images = rng.integers(0, 255, (steps + 1, 8, 8, 3), np.uint8)
            obs.create_dataset("sensor_data/base_camera/rgb", data=images, compression="gzip", compression_opts=5)
            obs["sensor_data/base_camera/depth"] = np.zeros((steps + 1, 8, 8, 1), np.int16)
            group["env_states/actors/cube"] = np.zeros((steps + 1, 13), np.float32)
            group["actions"] = rng.uniform(-1, 1, (steps, 7)).astype(np.float32)
            group["rewards"] = np.arange(steps, dtype=np.float32)
            for name in ("terminated", "truncated", "success"):
                group[name] = np.arange(steps) == (steps - 1 if name != "truncated" else -1)
            entry = {
                "episode_id": first_id + i,
                "episode_seed": 7 + i,
                "control_mode": "pd_ee_delta_pose",
                "elapsed_steps": steps,
            }
            meta["episodes"].append({**entry, "reset_kwargs": {"options": None, "seed": 7 + i}, "success": True})
    path.with_suffix(".json").write_text(json.dumps(meta))
    return path


def test_files_that_maniskill_writes(tmp_path):
    path = maniskill_file(tmp_path / "trajectory.h5")
    demos = open_demos(tmp_path)
    assert demos.tasks == ["maniskill/PushCube-v1"] and demos.specs == {} and demos.control_hz(0) == 20
    assert demos.episodes[1].seed == 8 and demos.episodes[1].success and demos.episodes[1].length == 3
    assert demos.episodes[0].instruction == "push the cube away from the robot base"
    assert demos.cameras == ["image.base_camera"] and len(demos.state_names) == 9 + 9 + 7 + 1
    assert demos.state_names[:2] == ("agent.qpos.0", "agent.qpos.1") and demos.state_names[-1] == "extra.is_grasped"
    episode = demos[1]
    assert episode.obs["state"][2].tolist() == [1.0] * 9 + [11.0] * 9 + [21.0] * 7 + [1.0]
    assert np.array_equal(episode.steps["label"], episode.steps["action"])
    with h5py.File(path) as file:
        assert np.array_equal(episode.obs["image.base_camera"], file["traj_1/obs/sensor_data/base_camera/rgb"])
    assert Rows(demos, ("image.base_camera", "state"), 0)[torch.tensor([5, 0])]["state"][0, 0] == 1
    assert dataset_statistics(demos, "x")["x"]["action"]["mask"] == [True] * 7


def test_written_files_match_maniskill_layout(recorded):
    """The datasets, shapes and JSON keys that ManiSkillTrajectoryDataset and merge_trajectories rely on."""
    path = recorded / "trajectory.tabletop-PushCube.0000.h5"
    meta = json.loads(path.with_suffix(".json").read_text())
    assert {"env_id", "env_kwargs", "max_episode_steps"} <= set(meta["env_info"])
    with h5py.File(path) as file:
        assert sorted(file) == [f"traj_{e['episode_id']}" for e in meta["episodes"]] == ["traj_0", "traj_1", "traj_2", "traj_3"]
        for entry in meta["episodes"]:
            group, length = file[f"traj_{entry['episode_id']}"], entry["elapsed_steps"]
            assert entry["reset_kwargs"] == {"seed": entry["episode_seed"]} and entry["success"] is True
            assert (group["actions"].shape, group["actions"].dtype) == ((length, 7), np.float32)
            for name, dtype in {"rewards": np.float32, "terminated": bool, "truncated": bool, "success": bool}.items():
                assert (group[name].shape, group[name].dtype) == ((length,), dtype)
            assert group["obs/sensor_data/front/rgb"].shape == (length + 1, 16, 16, 3)
            assert group["obs/sensor_data/front/rgb"].compression == "gzip"
            assert group["obs/state"].shape[0] == length + 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "dataset.json").write_text("{"), "dataset.json: damaged: "),
        (lambda f: (f / "dataset.json").write_text('{"format": "x", "version": 1}'), "is x 1, and this rpd reads rpd-demonst"),
        (lambda f: next(f.glob("*.h5")).unlink(), ".h5: is missing"),
        (lambda f: next(f.glob("*.h5")).write_bytes(b"HDF"), ".h5: truncated or altered: 3 bytes instead of "),
        (lambda f: next(f.glob("traj*.json")).unlink(), ".json: is missing"),
        (lambda f: next(f.glob("traj*.json")).write_text("{}"), ".json: truncated or altered: 2 bytes instead of "),
    ],
)
def test_damaged_folders_are_named(damage, says, recorded, tmp_path, capsys):
    shutil.copytree(recorded, tmp_path / "x")
    damage(tmp_path / "x")
    assert main(["data", "show", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_files_that_are_no_trajectories_are_named(tmp_path):
    path = maniskill_file(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"a.h5: cannot be read: .*truncated"):
        open_demos(path)
    with pytest.raises(ConfigError, match=r"b.h5: no episodes"):
        open_demos(maniskill_file(tmp_path / "b.h5", episodes=0))
    with pytest.raises(ConfigError, match=r"c.h5 and its .json are not .*: there is no traj_8"):
        open_demos(maniskill_file(tmp_path / "c.h5", first_id=8))


def test_show(recorded, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["data", "show", str(recorded)]) == 0
    out = capsys.readouterr().out
    for words in ("12 episodes", "tabletop/PushCube", "6/6", "image.front", "16 x 16 x 3", "0.03 m", "gripper", "instructions"):
        assert words in out
    assert main(["data", "show", str(maniskill_file(tmp_path / "trajectory.h5"))]) == 0
    out = capsys.readouterr().out
    assert "maniskill/PushCube-v1" in out and "image.base_camera" in out and "push the cube away" in out


def test_missing_extra_names_the_install_command(monkeypatch, recorded, capsys):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert main(["data", "show", str(recorded)]) == 2
    assert capsys.readouterr().err == (
        "rpd data: a demonstration file needs h5py, which is not installed: pip install -e '.[demos]' # in a clone of rpd\n"
    )


@pytest.mark.slow
@pytest.mark.maniskill
def test_maniskill_reads_the_files(recorded, tmp_path):
    """Its RecordEpisode writes what we read, and its dataset reads what we write."""
    gymnasium = pytest.importorskip("gymnasium")
    try:
        render_settings()
    except ConfigError as error:
        pytest.skip(str(error))
    pytest.importorskip("mani_skill.envs")
    from mani_skill.trajectory.dataset import ManiSkillTrajectoryDataset
    from mani_skill.utils.wrappers import RecordEpisode

    options = {"control_mode": "pd_ee_delta_pose", "sim_backend": "cpu", "render_backend": "none"}
    env = gymnasium.make("PickCube-v1", obs_mode="state_dict", **options)
    env = RecordEpisode(env, str(tmp_path), save_video=False, trajectory_name="trajectory")
    for seed in (3, 4):
        env.reset(seed=seed)
        for _ in range(4):
            env.step(env.action_space.sample())
    env.close()
    demos = open_demos(tmp_path)
    assert [e.seed for e in demos.episodes] == [3, 4] and [e.length for e in demos.episodes] == [4, 4]
    assert "agent.qpos.0" in demos.state_names and demos[0].obs["state"].shape == (5, len(demos.state_names))

    theirs = ManiSkillTrajectoryDataset(str(recorded / "trajectory.tabletop-PushCube.0000.h5"))
    ours = Rows(open_demos(recorded / "trajectory.tabletop-PushCube.0000.h5"), ("image.front", "state", "action", "reward"))
    assert len(theirs) == len(ours)
    row, batch = theirs[5], ours[torch.tensor([5])]
    assert np.array_equal(row["obs"]["sensor_data"]["front"]["rgb"], batch["image.front"][0])
    assert np.array_equal(row["obs"]["state"], batch["state"][0]) and np.array_equal(row["action"], batch["action"][0])
    assert row["reward"] == batch["reward"][0]
