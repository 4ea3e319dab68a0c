import os
import subprocess
import sys
import time

import numpy as np
import pytest

from rpd.cli.log import outcome
from rpd.cli.main import main
from rpd.datasets.deploy_log import format as record
from rpd.datasets.deploy_log.format import Recorder, RecordLost
from rpd.datasets.deploy_log.reader import Record
from rpd.datasets.reader import open_demos
from rpd.deploy.robots.replay import ReplayDriver
from rpd.envs.control.arm import Arm
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import EnvSpec

HEAD = {"kind": "head", "spec": "{}"}


def written(path, count=20):
    recorder = Recorder(path, HEAD)
    for i in range(count):
        recorder.add({"kind": "tick", "tick": i, "joints": np.arange(3.0) + i})
    recorder.close()
    return path.read_bytes()


def test_written_frames_are_read_back(tmp_path):
    written(tmp_path / "a.rpdlog")
    head, *frames = record.read(tmp_path / "a.rpdlog")
    assert head == HEAD and [f["tick"] for f in frames] == list(range(20))
    np.testing.assert_array_equal(frames[7]["joints"], [7, 8, 9])
    place, frame = list(record.scan(tmp_path / "a.rpdlog"))[5]
    assert record.read_at(tmp_path / "a.rpdlog", place)["tick"] == frame["tick"] == 4


def test_truncated_record_is_read_up_to_the_cut(tmp_path):
    data, path = written(tmp_path / "a.rpdlog", 4), tmp_path / "b.rpdlog"
    counts = []
    for size in range(len(record.MAGIC), len(data) + 1):
        path.write_bytes(data[:size])
        counts.append(len(list(record.read(path))))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 5 and set(counts) == set(range(6))


def test_flipped_bit_loses_one_frame(tmp_path):
    """In a payload, in its checksum or in its length: the frames behind it are read."""
    data, path = written(tmp_path / "a.rpdlog", 6), tmp_path / "b.rpdlog"
    places = [place for place, _ in record.scan(tmp_path / "a.rpdlog")]
    for bit in range(8 * places[3], 8 * places[4]):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = list(record.scan(path))
        assert [frame["tick"] for _, frame in found[1:] if not isinstance(frame, record.Gap)] == [0, 1, 3, 4, 5], bit
        assert [item for item in found if isinstance(item[1], record.Gap)] == [(places[3], record.Gap(places[4] - places[3]))]


def test_damaged_last_frame_is_a_gap_and_a_torn_one_is_not(tmp_path):
    data, path = written(tmp_path / "a.rpdlog", 3), tmp_path / "b.rpdlog"
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert isinstance(list(record.scan(path))[-1][1], record.Gap)
    path.write_bytes(data[:-1])
    assert not any(isinstance(frame, record.Gap) for _, frame in record.scan(path))


def test_record_of_a_killed_process_is_readable(tmp_path):
    code = f"""
import time
from pathlib import Path
from rpd.datasets.deploy_log.format import Recorder
recorder = Recorder(Path({str(tmp_path / "a.rpdlog")!r}), {HEAD!r})
for i in range(100000):
    recorder.add({{"kind": "tick", "tick": i, "data": "x" * 1000}})
    print(i, flush=True)
    time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while process.stdout.readline() and sum(1 for _ in written_ticks(tmp_path / "a.rpdlog")) < 50:
        pass  # a thread writes: what is printed may be ahead of what is on the disk
    process.kill()
    process.wait()
    ticks = list(written_ticks(tmp_path / "a.rpdlog"))
    assert ticks == list(range(len(ticks))) and len(ticks) >= 50


def written_ticks(path):
    return (frame["tick"] for frame in record.read(path) if frame["kind"] == "tick")


def test_invalid_record_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(record.read(tmp_path / "none.rpdlog"))
    (tmp_path / "other.rpdlog").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is not a record of `rpd deploy`"):
        list(record.read(tmp_path / "other.rpdlog"))
    written(tmp_path / "a.rpdlog")
    with pytest.raises(ConfigError, match="exists already"):
        Recorder(tmp_path / "a.rpdlog", HEAD)


def test_full_disk_raises_record_lost(tmp_path):
    recorder = Recorder(tmp_path / "a.rpdlog", HEAD)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._file)
    with pytest.raises(RecordLost, match="No space left on device"):
        for _ in range(100):
            recorder.add({"kind": "tick"})
            time.sleep(0.01)
    recorder.close()
    os.close(full)


@pytest.fixture
def deployed(rig, keep):
    rig = rig()
    rig.recorder.add({"kind": "episode", "seed": 3, "instruction": "go"})
    rig.outcome = rig.run(steps=20)
    return rig


def test_record_is_read_as_demonstrations(deployed, tmp_path):
    demos = open_demos(deployed.path)
    assert len(demos) == 1 and demos.keys == ["state", "privileged", "action", "label", "success"]
    episode, answered = demos[0], deployed.outcome.answered
    assert episode.info.seed == 3 and episode.info.length == answered and episode.info.task == "tabletop/Reach"
    assert episode.steps["action"].shape == episode.steps["label"].shape == (answered, 7)
    np.testing.assert_allclose(np.abs(episode.steps["label"][:, 1]), 0.6)  # what the policy does
    np.testing.assert_array_equal(demos.read(0, "state", [2])[0], episode.obs["state"][2])
    out = tmp_path / "lerobot"
    assert main(["data", "export", str(deployed.path), "--out", str(out)]) == 0
    again = open_demos(out)[0]
    np.testing.assert_allclose(again.obs["state"], episode.obs["state"])
    np.testing.assert_allclose(again.steps["action"], episode.steps["action"])
    np.testing.assert_allclose(again.steps["label"], episode.steps["label"])


def test_executed_actions_are_what_was_commanded_behind_the_safety_layer(rig, config):
    slow = config.model_copy(update={"limits": config.limits.model_copy(update={"tcp_speed": 0.02})})
    rig = rig(config=slow)
    rig.recorder.add({"kind": "episode", "seed": 3, "instruction": "go"})
    rig.run(steps=20)
    steps, ticks = open_demos(rig.path)[0].steps, rig.ticks()
    scale = np.array(rig.policy.spec.action.scale[:3])
    fastest = 0.02 / rig.policy.spec.control_hz
    assert np.abs(steps["label"][:, 1]).min() * scale[1] > 2 * fastest  # else nothing is held back
    moved = np.linalg.norm(steps["action"][:, :3] * scale, axis=1)
    assert 0.5 * fastest < moved.max() < 1.01 * fastest
    arm = Arm(ROBOTS[config.kinematics])
    (start,), (end,) = (arm.forward(joints[None])[0] for joints in (ticks[0]["joints"], ticks[-1]["command"]))
    np.testing.assert_allclose((steps["action"][:, :3] * scale).sum(0), end - start, atol=1e-5)


def test_outcome_from_record_equals_loop_outcome(deployed):
    (played,) = Record(deployed.path).played
    told = outcome(played)
    for name in ("ticks", "asked", "answered", "overruns", "clamps", "lateness", "ages", "delays", "success"):
        assert getattr(told, name) == getattr(deployed.outcome, name), name
    assert told.reason == "the record ends"  # nobody wrote how


def test_record_is_replayed_as_a_robot(deployed, config):
    replayed = ReplayDriver(config, str(deployed.path))
    ticks = [tick for tick in deployed.ticks() if "joints" in tick]
    first = replayed.read()
    np.testing.assert_array_equal(first.joints, ticks[0]["joints"])
    replayed.command(first.joints + 1, 0.0)  # moves nothing
    time.sleep(0.3)
    later = replayed.read()
    assert any((later.joints == tick["joints"]).all() for tick in ticks[1:])
    assert tuple(later.tracked) == replayed.spec.tracked and later.privileged is not None
    replayed.stop()
    assert replayed.read().stopped == "by a stop command"
    with pytest.raises(ConfigError, match="has 1 episodes, from 0, and not 3"):
        ReplayDriver(config, str(deployed.path), episode=3)


def test_rerun(deployed, tmp_path):
    pytest.importorskip("rerun")
    from rpd.deploy.rerun import write

    recorded = Record(deployed.path)
    recorded.head["rate"] = 20.0
    write(recorded, tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").stat().st_size > 10_000


def damaged(path, out, *kinds):
    """A copy of a record with one flipped bit in a frame of each kind; of ticks the fifth."""
    data, seen = bytearray(path.read_bytes()), []
    for place, frame in record.scan(path):
        seen.append(frame["kind"])
        if frame["kind"] in kinds and (frame["kind"] != "tick" or seen.count("tick") == 5):
            data[place + record.FRAME.size + 9] ^= 4
    out.write_bytes(data)
    return out


@pytest.fixture
def several(deployed, tmp_path):
    """The same episode three times in one record, each with its end."""
    frames = list(record.read(deployed.path))
    path = tmp_path / "several.rpdlog"
    recorder = Recorder(path, frames[0])
    for seed in range(3):
        for frame in frames[1:]:
            recorder.add({**frame, "seed": seed} if frame["kind"] == "episode" else frame)
            time.sleep(0.002)
        recorder.add({"kind": "end", "reason": "time", "fault": False})
    recorder.close()
    return path


def test_damaged_frame_is_reported_and_others_are_read(several, tmp_path, caplog):
    whole = Record(several)
    assert not whole.lost and not caplog.records
    read = Record(damaged(several, tmp_path / "b.rpdlog", "tick"))
    assert [p.seed for p in read.played] == [0, 1, 2]
    assert len(read.played[0].ticks) == len(whole.played[0].ticks) - 1
    assert [len(p.ticks) for p in read.played[1:]] == [len(p.ticks) for p in whole.played[1:]]
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "b.rpdlog: damaged: " in line and "are lost, in or behind episode 1, after tick " in line


def test_episodes_that_a_fault_ended_are_left_out_by_name(several, tmp_path, caplog):
    frames, path, ends = list(record.read(several)), tmp_path / "faults.rpdlog", iter((False, True, True))
    recorder = Recorder(path, frames[0])
    for frame in frames[1:]:
        recorder.add({**frame, "fault": next(ends), "reason": "the cable broke"} if frame["kind"] == "end" else frame)
        time.sleep(0.002)
    recorder.close()
    assert [episode.seed for episode in open_demos(path).episodes] == [0]
    first, second = (entry.getMessage() for entry in caplog.records)
    assert first.endswith("faults.rpdlog: left out: episode 1 was stopped: the cable broke") and "episode 2" in second
    assert len(Record(path).played) == 3  # the log shows them


def test_ticks_of_an_episode_whose_beginning_is_lost_are_no_other_episodes(several, tmp_path):
    read = Record(damaged(several, tmp_path / "b.rpdlog", "episode"))
    assert read.played == [] and len(read.lost) == 3
    whole = Record(several)
    data, marks = bytearray(several.read_bytes()), [(place, f["kind"]) for place, f in record.scan(several)]
    end = next(place for place, kind in marks if kind == "end")
    following = next(place for place, kind in marks if kind == "episode" and place > end)
    for place in (end, following):
        data[place + record.FRAME.size + 9] ^= 4
    (tmp_path / "c.rpdlog").write_bytes(data)
    read = Record(tmp_path / "c.rpdlog")
    assert [p.seed for p in read.played] == [0, 2]
    assert len(read.played[0].ticks) == len(whole.played[0].ticks)
    assert read.episodes[0].success is None  # how it ended is lost


def test_record_without_head_is_refused(several, tmp_path):
    with pytest.raises(ConfigError, match="its first frame is damaged"):
        Record(damaged(several, tmp_path / "b.rpdlog", "head"))


def test_damage_is_reported_on_stderr(several, tmp_path, capsys):
    path = damaged(several, tmp_path / "b.rpdlog", "tick")
    code = f"import sys; from rpd.cli.main import main; sys.exit(main(['data', 'show', {str(path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "b.rpdlog: damaged: " in done.stderr


def test_robot_of_a_users_file_is_asked_for_by_the_file(several, tmp_path, capsys):
    frames, path = list(record.read(several)), tmp_path / "own.rpdlog"
    spec = EnvSpec.model_validate_json(frames[0]["spec"])
    spec = spec.model_copy(update={"embodiment": spec.embodiment.model_copy(update={"name": "my_arm"})})
    named = {"policy": "a", "robot": "b", "rate": 20.0, "imports": ["/home/me/my_arms.py"]}
    Recorder(path, {**frames[0], **named, "spec": spec.model_dump_json()}).close()
    assert main(["log", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"robot in {path} 'my_arm'" in line and line.endswith("add --import /home/me/my_arms.py")
