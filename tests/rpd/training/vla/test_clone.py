"""`rpd teacher finetune` end to end: minibatches, a run, its resume, its model as a teacher, and what it refuses."""

import json
import math

import pytest
import torch
import yaml

from rpd.cli.main import main
from rpd.config.vla_finetuning import CloneConfig
from rpd.core.distributed import SOLO
from rpd.datasets.reader import open_demos
from rpd.datasets.vla import CloneData, camera_of
from rpd.envs.errors import ConfigError
from rpd.runs.tracker import read_metrics
from rpd.training.lr_schedules import progress_rate

pytest.importorskip("transformers")
pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A size of a new model that takes no time."""
    openvla = {
        "image_size": 16,
        "vits": [{"depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 8, "class_token": False}],
        "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    }
    octo = {
        "cameras": {"image_primary": 32}, "width": 16, "layers": 1, "heads": 2, "mlp": 32, "features": [32] * 4,
        "stem_width": 16, "t5": {"d_model": 16, "num_heads": 2, "num_layers": 1, "d_kv": 8, "d_ff": 32},
        "head": {"action_horizon": 2, "hidden_dim": 16, "num_blocks": 1, "diffusion_steps": 4},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("sizes")
    for family, size in {"openvla": openvla, "octo": octo}.items():
        (folder / family).mkdir()
        (folder / family / "tiny.yaml").write_text(yaml.safe_dump(size))
    return folder


@pytest.fixture(autouse=True)
def sizes(tiny, monkeypatch):
    monkeypatch.setattr("rpd.teachers.vla.model_sizes.folder", lambda family: tiny / family)


def train(runs, data, *more):
    steps = ["--train-steps", "60", "--batch-size", "8", "--eval-freq", "20", "--save-freq", "20", "--eval-episodes", "2"]
    return main(
        ["teacher", "finetune", str(data), "--init", "tiny", "--runs-dir", str(runs), "--num-threads", "1", *steps, *more]
    )


def test_learning_rate_rises_and_falls():
    assert math.isclose(progress_rate(0, 100, 10), 0.1)
    assert progress_rate(9, 100, 10) > 0.97
    assert math.isclose(progress_rate(50, 100, 0), 0.505)
    assert math.isclose(progress_rate(100, 100, 10), 0.01)


@pytest.mark.parametrize("balance", [1.0, 0.5, 0.0])
def test_minibatches_balance_tasks_and_hold_episodes_out(balance, recorded):
    demos = open_demos(recorded)
    data = CloneData(demos, "image.front", False, CloneConfig(validation=0.25, balance=balance))
    rows = data.rows
    assert not set(rows.episode[data.train].tolist()) & set(rows.episode[data.held_out].tolist())
    assert len(data.train) + len(data.held_out) == len(rows)
    drawn = torch.Generator().manual_seed(0)
    said = [text for _ in range(20) for text in data.sample(SOLO.share(100), drawn).instructions]
    push = sum(" cube" in text for text in rows.instructions(data.train))
    reach = len(data.train) - push  # far fewer steps
    expected = push ** (1 - balance) / (push ** (1 - balance) + reach ** (1 - balance))
    assert abs(sum(" cube" in text for text in said) / len(said) - expected) < 0.04
    with pytest.raises(ConfigError, match="'side' was not recorded in all of these demonstrations; recorded: front"):
        camera_of(demos, "side")


def test_chunks_end_with_their_episode(recorded):
    """Labels of the next steps; after the end the last one again, which does not count."""
    demos = open_demos(recorded)
    data = CloneData(demos, "image.front", False, CloneConfig(), horizon=3)
    length = demos.episodes[0].length
    batch = data.batch(torch.tensor([0, length - 2, length, len(data.rows) - 1]))
    first, second = (torch.from_numpy(demos.read(i, "label")) for i in (0, 1))
    torch.testing.assert_close(batch.actions[:3], torch.stack([first[:3], first[[-2, -1, -1]], second[:3]]))
    assert batch.counts.tolist() == [[True] * 3, [True, True, False], [True] * 3, [True, False, False]]


@pytest.mark.parametrize("family", ["openvla", "octo"])
@pytest.mark.parametrize("more", [(), ("--scene-steps", "50", "--scene-weight", "1")], ids=["whole", "eyes first"])
def test_run_its_resume_and_its_model(more, family, collect, tmp_path, capsys, monkeypatch):
    """Stopped after 40 steps and continued; with eyes that learn first, among those."""
    recorded = tmp_path / "demos"
    assert collect(recorded, privileged=True) == 0
    kind = ("--family", family)
    assert train(tmp_path, recorded, "--name", "whole", *kind, *more) == 0
    assert f"as a teacher: {family}:" in capsys.readouterr().out
    whole = tmp_path / "whole"
    result = json.loads((whole / "result.json").read_text())
    assert [(p["task"], p["n"]) for p in result["played"]] == [("tabletop/Reach", 2), ("tabletop/PushCube", 2)]
    assert {"check/loss", "check/error", "check/gripper"} < set(read_metrics(whole)[0])
    assert ("clone/action" in read_metrics(whole)[0]) == (not more) and "clone/action" in read_metrics(whole)[-1]
    assert "<svg" in (whole / "report.html").read_text()

    stop = iter([False, False, True])
    asked = property(lambda self: next(stop), lambda self, value: None)
    with monkeypatch.context() as patch:
        patch.setattr("rpd.core.interrupt.Interrupt.requested", asked, raising=False)
        assert train(tmp_path, recorded, "--name", "halves", *kind, *more) == 130
    halves = tmp_path / "halves"
    again = ["teacher", "finetune", "--resume", str(halves)]
    assert main([*again, "--lora", "2"]) == 2 and "lora 2 cannot change within a run, which has 0" in capsys.readouterr().err
    assert main([*again, "--results", f"file://{tmp_path}/copies"]) == 0
    assert (tmp_path / "copies/halves/result.json").read_bytes() == (halves / "result.json").read_bytes()
    for name in ("model.safetensors", "action_mapping.yaml", "dataset_statistics.json"):
        assert (halves / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    numbers = [
        [{k: v for k, v in m.items() if "time/" not in k} for m in read_metrics(tmp_path / n)] for n in ("whole", "halves")
    ]
    assert numbers[0] == numbers[1]

    action_mapping = yaml.safe_load((whole / "model" / "action_mapping.yaml").read_text())
    assert action_mapping["action"]["x"] == {"unit": "m", "scale": 0.03} and action_mapping["image_size"] == 16
    options = ["--episodes", "2", "--video", "False", "--out", str(tmp_path / "eval")]
    assert main(["eval", f"{family}:{whole / 'model'}", "--task", "tabletop/Reach", *options]) == 0
    assert main(["teacher", "show", f"{family}:{whole / 'model'}", "--task", "tabletop/PushCube"]) == 0


@pytest.mark.parametrize("family", ["openvla", "octo"])
def test_fine_tuning_keeps_the_statistics_of_before(family, recorded, tmp_path):
    kind = ["--family", family]
    assert train(tmp_path, recorded, *kind, "--name", "first", "--train-steps", "20", "--eval-episodes", "0") == 0
    model = str(tmp_path / "first" / "model")
    tuned = [
        "--init",
        model,
        "--lora",
        "2",
        "--key",
        "second",
        "--train-steps",
        "20",
        "--eval-episodes",
        "0",
        "--name",
        "tuned",
    ]
    assert train(tmp_path, recorded, *kind, *tuned) == 0
    statistics = json.loads((tmp_path / "tuned" / "model" / "dataset_statistics.json").read_text())
    assert set(statistics) == {"demos", "second"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--init", "tiney"], "unknown size of a new model 'tiney': did you mean tiny?"),
        (["--init", "/nowhere/vla"], "/nowhere/vla: does not exist"),
        (["--scene-weight", "1"], "--scene-weight needs scene states, which were not recorded"),
        (["--camera", "side"], "camera 'side' was not recorded"),
        (["--lora", "4"], "--lora 4 adapts a pretrained model, and --init tiny is a new one"),
        (["--family", "octo", "--smoothing", "3"], "--smoothing 3 applies to action bins, and --family octo has none"),
        (["--family", "octo", "--init", "tiney"], "unknown size of a new model 'tiney': did you mean tiny?"),
        (["--resume", "/nowhere"], "/nowhere is not a run that can be resumed"),
    ],
)
def test_invalid_options_give_one_line(recorded, tmp_path, capsys, options, says):
    assert train(tmp_path, recorded, *options) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
