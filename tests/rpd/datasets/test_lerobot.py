"""LeRobotDataset v3: the files of the format, what is in them, and the way back."""

import io
import json
import shutil

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from rpd.cli.main import main
from rpd.datasets.lerobot import layout
from rpd.datasets.lerobot.stats import histogram, image_stats, vector_stats
from rpd.datasets.reader import open_demos
from rpd.datasets.steps import Rows
from rpd.envs.errors import ConfigError

pytest.importorskip("h5py")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

CAMERA = "observation.images.front"


@pytest.fixture(scope="module")
def ours(recorded):
    return open_demos(recorded)


@pytest.fixture(scope="module")
def folder(recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("lerobot") / "x"
    assert main(["data", "export", str(recorded), "--format", "lerobot", "--out", str(out)]) == 0
    return out


def test_files_of_the_format(folder):
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/rpd.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
    ]
    assert not list(folder.parent.glob(".*"))


def test_info(folder, ours):
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 20, "panda")
    assert (info["total_episodes"], info["total_frames"], info["splits"]) == (12, ours.num_steps, {"train": "0:12"})
    assert info["total_tasks"] == len({e.instruction for e in ours.episodes})
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    features = info["features"]
    assert features["action"] == {
        "dtype": "float32", "shape": [7], "names": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    }  # fmt: skip
    assert features["observation.state"]["names"] == list(ours.state_names)
    video = features[CAMERA]
    assert (video["dtype"], video["shape"], video["names"]) == ("video", [16, 16, 3], ["height", "width", "channels"])
    assert features["next.reward"] == {"dtype": "float32", "shape": [1], "names": None}
    assert {name: features[name]["dtype"] for name in layout.INDICES} == layout.INDICES


def test_rows(folder, ours):
    table = parquet.read_table(folder / "data/chunk-000/file-000.parquet")
    info = json.loads((folder / "meta/info.json").read_text())
    assert set(table.column_names) == set(info["features"]) - {CAMERA}
    assert table.schema.field("action").type == pa.list_(pa.float32(), 7)  # what the datasets library makes of a shape [7]
    assert table.schema.field("timestamp").type == pa.float32() and table.schema.field("next.done").type == pa.bool_()
    rows = table.to_pydict()
    assert rows["index"] == list(range(ours.num_steps))
    assert rows["episode_index"] == [i for i, e in enumerate(ours.episodes) for _ in range(e.length)]
    assert rows["frame_index"] == [t for e in ours.episodes for t in range(e.length)]
    assert rows["timestamp"] == pytest.approx([t / 20 for t in rows["frame_index"]])
    assert sum(rows["next.done"]) == 12 and rows["next.done"][ours.episodes[0].length - 1]
    assert np.array_equal(np.array(rows["action"], np.float32), np.concatenate([e.steps["label"] for e in ours]))
    assert np.array_equal(np.array(rows["executed_action"], np.float32), np.concatenate([e.steps["action"] for e in ours]))
    tasks = parquet.read_table(folder / "meta/tasks.parquet")
    texts = dict(zip(tasks["task_index"].to_pylist(), tasks["task"].to_pylist(), strict=True))
    assert [texts[i] for i in rows["task_index"]] == [e.instruction for e in ours.episodes for _ in range(e.length)]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_tasks_are_an_index_for_pandas(folder):
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(folder / "meta/tasks.parquet")
    assert list(tasks.columns) == ["task_index"] and isinstance(tasks.iloc[0].name, str)


def test_episode_index_points_to_its_rows(folder, ours):
    rows = parquet.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    first = 0
    for i, (row, info) in enumerate(zip(rows, ours.episodes, strict=True)):
        last = first + info.length
        assert (row["episode_index"], row["length"], row["tasks"]) == (i, info.length, [info.instruction])
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (first, last)
        assert row[f"videos/{CAMERA}/from_timestamp"] == pytest.approx(first / 20)
        assert row[f"videos/{CAMERA}/to_timestamp"] == pytest.approx(last / 20)
        for name in ("data", f"videos/{CAMERA}", "meta/episodes"):
            assert (row[f"{name}/chunk_index"], row[f"{name}/file_index"]) == (0, 0)
        assert row["stats/action/max"] == pytest.approx(ours[i].steps["label"].max(0).tolist())
        assert row["stats/action/count"] == [info.length] and np.shape(row[f"stats/{CAMERA}/mean"]) == (3, 1, 1)
        first = last


def test_video_has_the_images_frame_by_frame(folder, ours):
    with imageio.get_reader(str(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as reader:
        assert reader.get_meta_data()["fps"] == 20
        frames = np.stack(list(reader.iter_data())).astype(int)
    images = np.concatenate([e.obs["image.front"][:-1] for e in ours]).astype(int)
    assert frames.shape == images.shape
    error = np.abs(frames - images).mean((1, 2, 3))
    assert error.max() < 10  # of 255; colours are halved in resolution
    assert error.mean() < np.abs(frames[1:] - images[:-1]).mean()  # and no frame is another's


def test_statistics(folder, ours):
    found = json.loads((folder / "meta/stats.json").read_text())
    info = json.loads((folder / "meta/info.json").read_text())
    assert set(found) == set(info["features"])
    labels = np.concatenate([e.steps["label"] for e in ours]).astype(float)
    images = np.concatenate([e.obs["image.front"][:-1] for e in ours]) / 255
    assert found["action"]["mean"] == pytest.approx(labels.mean(0)) and found["action"]["count"] == [len(labels)]
    assert found["action"]["q01"] == pytest.approx(np.quantile(labels, 0.01, axis=0))
    assert np.shape(found[CAMERA]["mean"]) == (3, 1, 1)
    for name, value in {"mean": images.mean((0, 1, 2)), "std": images.std((0, 1, 2)), "max": images.max((0, 1, 2))}.items():
        assert np.ravel(found[CAMERA][name]) == pytest.approx(value)


def test_statistics_by_hand():
    found = vector_stats(np.arange(5))
    assert (found["min"], found["max"], found["mean"], found["std"]) == ([0], [4], [2], [2**0.5])
    assert (found["q50"], found["q10"], found["count"]) == ([2], [pytest.approx(0.4)], [5])
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0, 0, 1] = 255  # one of four pixels, in green
    found = image_stats(histogram(images), 1)
    assert found["mean"] == [[[0]], [[0.25]], [[0]]] and found["max"] == [[[0]], [[1]], [[0]]]
    assert found["std"][1] == [[pytest.approx(0.1875**0.5)]]
    assert found["q50"] == [[[0]]] * 3 and found["q90"] == [[[0]], [[1]], [[0]]] and found["count"] == [1]


def test_exported_dataset_is_read_back(folder, ours):
    theirs = open_demos(folder)
    assert theirs.episodes == ours.episodes and theirs.specs == ours.specs and theirs.state_names == ours.state_names
    assert set(theirs.keys) == set(ours.keys) and theirs.control_hz(0) == 20
    for a, b in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a.steps[k], b.steps[k]) and a.steps[k].dtype == b.steps[k].dtype for k in a.steps)
        assert np.array_equal(a.obs["state"][:-1], b.obs["state"])
        assert np.abs(a.obs["image.front"][:-1].astype(int) - b.obs["image.front"]).mean() < 10


def test_frames_in_any_order(folder):
    theirs = open_demos(folder)
    memory, disk = (Rows(theirs, ("image.front",), size) for size in (2**30, 0))
    index = torch.tensor([40, 3, 41, 0, len(memory) - 1, 3])
    assert torch.equal(memory[index]["image.front"], disk[index]["image.front"])


def test_files_end_when_they_are_full(recorded, tmp_path, monkeypatch, ours):
    monkeypatch.setattr(layout, "VIDEO_MB", 1e-5)
    monkeypatch.setattr(layout, "DATA_MB", 1e-5)
    monkeypatch.setattr(layout, "CHUNK_FILES", 5)
    assert main(["data", "export", str(recorded), "--out", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x/data/chunk-002/file-001.parquet").exists()  # 12 episodes, 5 files per chunk
    assert len(list((tmp_path / "x" / "videos").rglob("*.mp4"))) > 1
    for a, b in zip(ours, open_demos(tmp_path / "x"), strict=True):
        assert a.info == b.info and np.array_equal(a.steps["label"], b.steps["label"])
        assert np.abs(a.obs["image.front"][:-1].astype(int) - b.obs["image.front"]).mean() < 10


def foreign(root):
    """A dataset as LeRobot records it: lists of any length, images in the table, nothing of ours."""
    for name in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / name).mkdir(parents=True)
    rng, pictures = np.random.default_rng(0), []
    for i in range(5):
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 6, 3), 10 * i, np.uint8)).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": f"{i}.png"})
    rows = {"action": rng.random((5, 2)).tolist(), "observation.state": rng.random((5, 2)).tolist()}
    rows |= {"observation.image": pictures, "index": range(5), "task_index": [0] * 5, "episode_index": [0, 0, 1, 1, 1]}
    parquet.write_table(pa.table(rows), root / "data/chunk-000/file-000.parquet")
    parquet.write_table(pa.table({"task_index": [0], "__index_level_0__": ["push the T"]}), root / "meta/tasks.parquet")
    entry = {"tasks": ["push the T"], "data/chunk_index": 0, "data/file_index": 0}
    episodes = [{"episode_index": i, "length": n, "dataset_from_index": f} | entry for i, n, f in ((0, 2, 0), (1, 3, 2))]
    parquet.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    vector = {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}}
    image = {"dtype": "image", "shape": [4, 6, 3], "names": ["height", "width", "channel"]}
    info = {"codebase_version": "v3.0", "fps": 10, "data_path": layout.DATA, "video_path": None}
    info["features"] = {"action": vector, "observation.state": vector, "observation.image": image}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def test_third_party_lerobot_dataset(tmp_path, capsys):
    demos = open_demos(foreign(tmp_path / "x"))
    assert demos.keys == ["label", "state", "image.image", "action"] and demos.state_names == ("a", "b")
    assert demos.episodes[1].instruction == "push the T" and demos.episodes[1].success is None
    episode = demos[1]
    assert episode.obs["image.image"][:, 0, 0, 0].tolist() == [20, 30, 40] and episode.obs["state"].shape == (3, 2)
    assert np.array_equal(episode.steps["action"], episode.steps["label"])
    assert main(["data", "show", str(tmp_path / "x")]) == 0
    assert "push the T" in capsys.readouterr().out


def test_damaged_ones_are_named(folder, tmp_path):
    def broken(damage):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "x")
        damage(tmp_path / "x")
        with pytest.raises(ConfigError) as caught:
            list(open_demos(tmp_path / "x"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    video = f"videos/{CAMERA}/chunk-000/file-000.mp4"
    old = json.dumps({"codebase_version": "v2.1"})
    assert "is a LeRobot dataset v2.1, and rpd reads v3.0" in broken(lambda x: (x / "meta/info.json").write_text(old))
    assert "is not a whole LeRobot dataset" in broken(lambda x: (x / "meta/info.json").write_text("{"))
    assert "file-000.mp4 is missing" in broken(lambda x: (x / video).unlink())
    assert "not a video that can be decoded" in broken(lambda x: (x / video).write_bytes(b"x" * 100))
    assert "file-000.parquet is missing" in broken(lambda x: (x / "data/chunk-000/file-000.parquet").unlink())


def test_incompatible_options_are_refused(recorded, collect, tmp_path, capsys):
    assert collect(tmp_path / "odd", "tabletop/Reach", episodes=1, env__image_size=15) == 0
    assert main(["data", "export", str(tmp_path / "odd"), "--out", str(tmp_path / "y")]) == 2
    assert "image.front is 15 x 15: videos need an even height and width" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
