import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from rpd.evaluation.video import GREEN, GREY, GridRecorder, VideoWriter, grid, side_by_side


def read(path):
    with imageio.get_reader(str(path)) as reader:
        return reader.get_meta_data(), np.stack(list(reader.iter_data()))


def test_grid_lays_out_tiles_and_marks_success():
    frames = np.full((3, 40, 60, 3), 200, np.uint8)
    page = grid(frames, np.array([True, False, False]), cols=2, gap=4)
    assert page.shape == (2 * 44 + 4, 2 * 64 + 4, 3)
    assert tuple(page[4, 4]) == GREEN and tuple(page[6, 6]) == GREEN  # 3 pixels wide
    assert tuple(page[4, 68]) == GREY and tuple(page[5, 69]) == (200, 200, 200)  # 1 pixel wide
    assert tuple(page[24, 34]) == (200, 200, 200)
    assert (page[60, 80] < 30).all()  # no fourth tile
    assert (frames == 200).all()


def test_captions_are_drawn_in_the_lower_left():
    frames = np.full((1, 64, 64, 3), 200, np.uint8)
    plain, named = (grid(frames, np.array([False]), captions=c) for c in (None, ["seed 7"]))
    changed = (plain != named).any(-1)
    assert changed[40:, :50].any() and not changed[:40].any()


def test_videos_have_the_frame_rate_and_even_sizes(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20) as video:
        for value in range(10):
            video.write(np.full((33, 47, 3), 20 * value, np.uint8))
    meta, frames = read(tmp_path / "a.mp4")
    assert meta["fps"] == 20 and meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p")
    assert frames.shape == (10 + 14, 34, 48, 3)  # the last frame stays for 0.7 s
    assert abs(int(frames[5, 10, 10, 0]) - 100) < 8
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads


def test_interrupted_video_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 20) as video:
        video.write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_recorder_holds_the_last_frame_of_ended_episodes(tmp_path):
    class Env:
        num_envs = 8
        shown = 0

        def render(self, envs, size):
            self.shown += 1
            asked.append(envs)
            return torch.full((len(envs), size, size, 3), 50 * self.shown, dtype=torch.uint8)

    asked = []
    env = Env()
    running = torch.tensor([True, True, True] + [False] * 5)  # 3 episodes are evaluated in a batch of 8
    with GridRecorder(tmp_path / "grid.mp4", 20, seed=5, tiles=4, size=64) as recorder:
        recorder(env, running, torch.zeros(8, dtype=torch.bool))
        running[0] = False
        recorder(env, running, torch.arange(8) == 0)
        running[:] = False
        recorder(env, running, torch.arange(8) == 0)
    assert asked == [[0, 1, 2], [1, 2]]
    assert [int(f[32, 32, 0]) for f in recorder.frames] == [50, 100, 100]
    assert read(tmp_path / "grid.mp4")[1].shape[1:] == (2 * 68 + 4, 2 * 68 + 4, 3)


def test_side_by_side_holds_the_shorter(tmp_path):
    for name, count, value in (("a", 4, 60), ("b", 9, 180)):
        with VideoWriter(tmp_path / f"{name}.mp4", 10) as video:
            for _ in range(count):
                video.write(np.full((40, 60, 3), value, np.uint8))
    side_by_side(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "ab.mp4", ("teacher", "student"))
    _, frames = read(tmp_path / "ab.mp4")
    assert frames.shape == (9 + 7 + 7, 74, 120, 3)
    assert abs(int(frames[-1, 60, 20, 0]) - 60) < 6 and abs(int(frames[-1, 60, 100, 0]) - 180) < 6
    assert frames[0, :34, :60].max() > 150  # a title
