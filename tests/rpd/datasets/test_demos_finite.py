"""Demonstrations with NaN, Inf or magnitudes that nothing has: refused before a run, by file, episode, step and entry."""

import shutil

import numpy as np
import pytest

from rpd.cli.main import main
from rpd.datasets.reader import open_demos
from rpd.datasets.steps import Rows
from rpd.envs.errors import ConfigError

h5py = pytest.importorskip("h5py")
UNSOUND = (np.nan, np.inf, -1e30)
NAMES = {"label": "labels", "action": "actions", "state": "obs/state", "privileged": "obs/privileged"}


@pytest.fixture(scope="module")
def demos(collect, tmp_path_factory):
    """A trajectory file of 4 episodes, as ManiSkill's: states, scenes and actions."""
    folder = tmp_path_factory.mktemp("demos")
    options = {"episodes": 4, "per_file": 4, "env__obs_mode": "state", "env__image_size": None, "privileged": "True"}
    assert collect(folder / "x", "tabletop/Reach", **options) == 0
    (file,) = (folder / "x").rglob("*.h5")
    return file


def spoiled(file, out, key, bad, episode=2, step=3):
    """A copy whose numbers of a key have one bad entry, the first."""
    for suffix in (".h5", ".json"):
        shutil.copy(file.with_suffix(suffix), out.with_suffix(suffix))
    with h5py.File(out, "r+") as copy:
        data = copy[f"traj_{episode}"][NAMES[key]]
        rows = data[:]
        rows[step, 0] = bad
        data[...] = rows
    return out


@pytest.mark.parametrize("bad", UNSOUND)
@pytest.mark.parametrize("key", NAMES)
def test_trajectory_file(demos, key, bad, tmp_path):
    file = spoiled(demos, tmp_path / "x.h5", key, bad)
    read = open_demos(file)
    names = read.state_names[0] if key == "state" else r"\[0\]"
    with pytest.raises(ConfigError, match=rf"x.h5, traj_2: {key} has invalid numbers, first at step 3: {names} = "):
        read.read(2, key)
    with pytest.raises(ConfigError, match="first at step 3"):
        read.read(2, key, [1, 3])
    assert np.isfinite(read.read(2, key, [1, 2])).all() and np.isfinite(read.read(1, key)).all()
    for max_bytes in (2**32, 0):  # held in memory, or read when they are drawn
        with pytest.raises(ConfigError, match="traj_2"):
            Rows(read, [key], max_bytes)


@pytest.mark.parametrize("student", [(), ("--student", "diffusion")], ids=["plain", "diffusion"])
@pytest.mark.parametrize("key", ["label", "state"])
def test_cloning_stops_before_it_starts(demos, arguments, key, student, tmp_path, capsys):
    file = spoiled(demos, tmp_path / "x.h5", key, np.nan)
    args = arguments(algorithm="bc", teacher=None, demos=file)
    assert main([*args, *student, "--runs-dir", str(tmp_path / "runs"), "--name", "x"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{file}, traj_2: {key} has invalid numbers, first at step 3" in err
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_lerobot_dataset(demos, tmp_path):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    out = tmp_path / "lerobot"
    assert main(["data", "export", str(demos), "--format", "lerobot", "--out", str(out)]) == 0
    assert len(open_demos(out)[3].steps["label"])
    (path,) = (out / "data").rglob("*.parquet")
    table = parquet.read_table(path)
    for feature, key in (("action", "label"), ("observation.state", "state"), ("next.reward", "reward")):
        column = table.column(feature).to_pylist()
        row = next(i for i, episode in enumerate(table.column("episode_index").to_pylist()) if episode == 3) + 2
        column[row] = np.nan if np.isscalar(column[row]) else [np.nan, *column[row][1:]]
        place = table.column_names.index(feature)
        parquet.write_table(
            table.set_column(place, table.schema.field(feature), pa.array(column, table.schema.field(feature).type)), path
        )
        read = open_demos(out)
        assert np.isfinite(read.read(2, key)).all()
        with pytest.raises(ConfigError, match=rf"file-000.parquet, episode 3: {key} has invalid numbers, first at step 2"):
            read.read(3, key)
