import os
import subprocess
import sys
import time

import numpy as np
import pytest

from envs.errors import ConfigError
from rpd.cli import main
from rpd.demos.reader import open_demos
from rpd.deploy import record
from rpd.deploy.record import Recorder, RecordLost
from rpd.deploy.recorded import Record
from rpd.deploy.replay import outcome
from rpd.deploy.robots.replay import Driver

HEAD = {"kind": "head", "spec": "{}"}


def written(path, count=20):
    recorder = Recorder(path, HEAD)
    for i in range(count):
        recorder.add({"kind": "tick", "tick": i, "joints": np.arange(3.0) + i})
    recorder.close()
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path):
    written(tmp_path / "a.rpdlog")
    head, *frames = record.read(tmp_path / "a.rpdlog")
    assert head == HEAD and [f["tick"] for f in frames] == list(range(20))
    np.testing.assert_array_equal(frames[7]["joints"], [7, 8, 9])
    place, frame = list(record.places(tmp_path / "a.rpdlog"))[5]
    assert record.read_at(tmp_path / "a.rpdlog", place)["tick"] == frame["tick"] == 4


def test_cut_off_anywhere_it_is_read_up_to_there(tmp_path):
    data, path = written(tmp_path / "a.rpdlog", 4), tmp_path / "b.rpdlog"
    counts = []
    for size in range(len(record.MAGIC), len(data) + 1):
        path.write_bytes(data[:size])
        counts.append(len(list(record.read(path))))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 5 and set(counts) == set(range(6))


def test_a_damaged_frame_ends_it(tmp_path):
    data = bytearray(written(tmp_path / "a.rpdlog"))
    data[len(data) // 2] ^= 1
    (tmp_path / "b.rpdlog").write_bytes(data)
    assert 8 <= len(list(record.read(tmp_path / "b.rpdlog"))) <= 11


def test_killed_while_it_is_written(tmp_path):
    code = f"""
import time
from pathlib import Path
from rpd.deploy.record import Recorder
recorder = Recorder(Path({str(tmp_path / "a.rpdlog")!r}), {HEAD!r})
for i in range(100000):
    recorder.add({{"kind": "tick", "tick": i, "data": "x" * 1000}})
    print(i, flush=True)
    time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 50:
        pass
    process.kill()
    process.wait()
    ticks = [f["tick"] for f in record.read(tmp_path / "a.rpdlog") if f["kind"] == "tick"]
    assert ticks == list(range(len(ticks))) and len(ticks) >= 45


def test_what_is_no_record(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(record.read(tmp_path / "none.rpdlog"))
    (tmp_path / "other.rpdlog").write_bytes(b"something else")
    with pytest.raises(ConfigError, match="is no record that `rpd deploy` wrote"):
        list(record.read(tmp_path / "other.rpdlog"))
    written(tmp_path / "a.rpdlog")
    with pytest.raises(ConfigError, match="exists already"):
        Recorder(tmp_path / "a.rpdlog", HEAD)


def test_a_disk_that_takes_nothing_is_noticed(tmp_path):
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


def test_a_record_is_demonstrations(deployed, tmp_path):
    demos = open_demos(deployed.path)
    assert len(demos) == 1 and demos.keys == ["state", "privileged", "action", "label", "success"]
    episode, answered = demos[0], deployed.outcome.answered
    assert episode.info.seed == 3 and episode.info.length == answered and episode.info.task == "tabletop/Reach"
    assert episode.steps["action"].shape == (answered, 7)
    np.testing.assert_allclose(np.abs(episode.steps["action"][:, 1]), 0.6)  # what the policy does
    np.testing.assert_array_equal(demos.read(0, "state", [2])[0], episode.obs["state"][2])
    out = tmp_path / "lerobot"
    assert main(["demos", "export", str(deployed.path), "--out", str(out)]) == 0
    again = open_demos(out)[0]
    np.testing.assert_allclose(again.obs["state"], episode.obs["state"])
    np.testing.assert_allclose(again.steps["action"], episode.steps["action"])


def test_a_record_tells_what_the_loop_told(deployed):
    (played,) = Record(deployed.path).played
    told = outcome(played)
    for name in ("ticks", "asked", "answered", "overruns", "clamps", "lateness", "ages", "delays", "success"):
        assert getattr(told, name) == getattr(deployed.outcome, name), name
    assert told.reason == "the record ends"  # nobody wrote how


def test_a_record_is_a_robot(deployed, config):
    replayed = Driver(config, str(deployed.path))
    ticks = [tick for tick in deployed.ticks() if "joints" in tick]
    first = replayed.read()
    np.testing.assert_array_equal(first.joints, ticks[0]["joints"])
    replayed.command(first.joints + 1, 0.0)  # moves nothing
    time.sleep(0.3)
    later = replayed.read()
    assert any((later.joints == tick["joints"]).all() for tick in ticks[4:9])
    assert tuple(later.tracked) == replayed.spec.tracked and later.privileged is not None
    replayed.stop()
    assert replayed.read().stopped == "told to"
    with pytest.raises(ConfigError, match="has 1 episodes, from 0, and not 3"):
        Driver(config, str(deployed.path), episode=3)


def test_rerun(deployed, tmp_path):
    pytest.importorskip("rerun")
    from rpd.deploy.rerun import write

    recorded = Record(deployed.path)
    recorded.head["rate"] = 20.0
    write(recorded, tmp_path / "a.rrd")
    assert (tmp_path / "a.rrd").stat().st_size > 10_000
