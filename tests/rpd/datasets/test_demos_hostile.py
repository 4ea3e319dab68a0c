"""Demonstrations that are damaged, or that name files outside of their folder, are refused by name."""

import json
import os
import random
import shutil

import numpy as np
import pytest

from rpd.cli.main import main
from rpd.datasets.reader import open_demos
from rpd.envs.errors import ConfigError

pytest.importorskip("h5py")
pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    out = tmp_path_factory.mktemp("demos") / "x"
    options = "--policy scripted --episodes 3 --env.num-envs 2 --per-file 2 --env.obs-mode state"
    assert main(["data", "collect", "tabletop/Reach", *options.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def lerobot(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("lerobot") / "x"
    assert main(["data", "export", str(recorded), "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "x")


def read_all(path):
    for episode in open_demos(path):
        assert len(episode.steps["action"])


def refused(path, *words):
    """Opening or reading it ends in one line with these words."""
    with pytest.raises(ConfigError) as error:
        read_all(path)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("ending", [".h5", "0000.json", "dataset.json"])
def test_flipped_bit_anywhere_is_noticed(copy, ending):
    path, random_ = next(p for p in sorted(copy.iterdir()) if p.name.endswith(ending)), random.Random(0)
    whole = path.read_bytes()
    for _ in range(30):
        data, bit = bytearray(whole), random_.randrange(8 * len(whole))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        refused(copy, path.name)
        if ending == ".h5":
            refused(path, path.name)  # named on its own, it still has its folder's index
    path.write_bytes(whole)
    read_all(copy)


def test_file_that_was_not_recorded_there(copy):
    path = next(copy.glob("*.h5"))
    for ending in (".h5", ".json"):
        shutil.copy(path.with_suffix(ending), copy / f"other{ending}")
    refused(copy / "other.h5", "other.h5: is not listed in")


def test_index_that_leads_elsewhere(copy):
    from rpd.datasets import dataset_dir

    def renamed(name):
        index = dataset_dir.read_index(copy)
        for results in index["rounds"].values():
            results[0] = results[0].model_copy(
                update={"file": name, "digests": {name: next(iter(results[0].digests.values()))}}
            )
        folder = dataset_dir.Recording.open(copy)
        folder.rounds = index["rounds"]
        folder.save()

    shutil.copy(next(copy.glob("*.h5")), copy.parent / "outside.h5")
    for name in ("../outside.h5", str(copy.parent / "outside.h5")):
        renamed(name)
        refused(copy, "outside.h5", "leads out of")


def as_maniskill(copy):
    """A folder of somebody else's: without an index."""
    (copy / "dataset.json").unlink()
    read_all(copy)
    return next(copy.glob("*.h5"))


@pytest.mark.parametrize("what", ["external link", "soft link", "link of a group", "virtual", "external storage"])
def test_trajectory_file_that_leads_elsewhere(copy, what):
    import h5py

    path, secret = as_maniskill(copy), copy.parent / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["actions"] = np.zeros((3, 7), np.float32)
        file.create_group("obs")["state"] = np.zeros((4, 2), np.float32)
    (copy.parent / "raw").write_bytes(bytes(4 * 21))
    with h5py.File(path, "r+") as file:
        episode = file["traj_0"]
        if what == "link of a group":
            del episode["obs"]
            episode["obs"] = h5py.ExternalLink(secret, "/obs")
        else:
            del episode["actions"]
            if what == "external link":
                episode["actions"] = h5py.ExternalLink(secret, "/actions")
            elif what == "soft link":
                episode["actions"] = h5py.SoftLink("/traj_1/actions")
            elif what == "virtual":
                layout = h5py.VirtualLayout((3, 7), np.float32)
                layout[:] = h5py.VirtualSource(secret, "actions", (3, 7))
                episode.create_virtual_dataset("actions", layout)
            else:
                place = [(str(copy.parent / "raw"), 0, h5py.h5f.UNLIMITED)]
                episode.create_dataset("actions", (3, 7), np.float32, external=place)
    refused(copy, path.name, "traj_0")


def test_folder_of_links_that_lead_out(copy):
    path = as_maniskill(copy)
    path.rename(copy.parent / path.name)
    path.symlink_to(copy.parent / path.name)
    refused(copy, "leads out of")


def changed(lerobot, tmp_path, change):
    folder = shutil.copytree(lerobot, tmp_path / "l")
    info = json.loads((folder / "meta/info.json").read_text())
    change(folder, info)
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("template", ["../outside.parquet", "/etc/passwd", "data/../../outside.parquet"])
def test_lerobot_dataset_that_leads_elsewhere(lerobot, tmp_path, template):
    shutil.copy(next(lerobot.glob("data/*/*.parquet")), tmp_path / "outside.parquet")
    refused(changed(lerobot, tmp_path, lambda folder, info: info.update(data_path=template)), "leads out of")


@pytest.mark.parametrize(
    "file", ["data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/info.json"]
)
def test_lerobot_dataset_of_links_that_lead_out(lerobot, tmp_path, file):
    folder = shutil.copytree(lerobot, tmp_path / "l")
    (folder / file).rename(tmp_path / "outside")
    (folder / file).symlink_to(tmp_path / "outside")
    refused(folder, "leads out of")


def test_hubs_cache_is_read(lerobot, tmp_path):
    """There, files are links to ../../blobs."""
    snapshot, blobs = tmp_path / "datasets--x/snapshots/1", tmp_path / "datasets--x/blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(sorted(p for p in lerobot.rglob("*") if p.is_file())):
        shutil.copy(path, blobs / str(i))
        link = snapshot / path.relative_to(lerobot)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    read_all(snapshot)


def test_flipped_bit_in_the_data_of_a_lerobot_dataset_is_noticed(lerobot, tmp_path):
    import pyarrow.parquet as parquet

    folder = shutil.copytree(lerobot, tmp_path / "l")
    path = next(folder.glob("data/*/*.parquet"))
    column = parquet.ParquetFile(path).metadata.row_group(0).column(0)
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    whole = bytearray(path.read_bytes())
    whole[end - 3] ^= 16
    path.write_bytes(whole)
    refused(folder, path.name, "damaged")


def test_playlist_is_no_video(tmp_path):
    from rpd.datasets.lerobot.video_reader import Film

    path = tmp_path / "file-000.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n")
    with pytest.raises(ConfigError, match="not a video that can be decoded"):
        Film(path, 20).read(0, 1)
