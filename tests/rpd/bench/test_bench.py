import json
import re

import pytest
import torch

from rpd.bench.export import fresh
from rpd.bench.teacher import difference
from rpd.cli.main import main
from rpd.students.io import pretrained


@pytest.fixture(autouse=True)
def wide(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def numbers(line):
    return [float(x.replace(",", "")) for x in re.findall(r"[\d,]+(?= +│)", line)]


def test_env(capsys, tmp_path):
    args = ["--task", "tabletop/Reach", "--num-envs", "4", "--image-size", "8", "--rounds", "2", "--num-threads", "1"]
    assert main(["bench", "env", *args]) == 0
    out = capsys.readouterr().out
    assert " cores, gpus: " in out and "tabletop/Reach, 4 environments" in out
    for row in ("control steps/s, state", "images/s, 8 x 8"):
        low, median, high, *_ = numbers(next(line for line in out.splitlines() if row in line))
        assert 0 < low <= median <= high
    (file,) = tmp_path.glob("runs/bench-env-*/bench.json")
    found = json.loads(file.read_text())
    assert found["command"] == f"rpd bench env {' '.join(args)}" and found["columns"][:2] == ["what", "min"]
    assert found["rows"][0][0] == "control steps/s, state" and f"{found['rows'][0][1]:,.0f}" in out
    assert len(found["rows"]) == 2 and not found["notes"]


def test_env_with_randomization_by_turns(capsys, tmp_path):
    args = ["--task", "tabletop/Reach", "--num-envs", "4", "--image-size", "8", "--rounds", "2", "--num-threads", "1"]
    assert main(["bench", "env", *args, "--domain-randomization", "real", "mass"]) == 0
    assert "times as fast with real mass (median of 2 rounds by turns)" in capsys.readouterr().out
    (file,) = tmp_path.glob("runs/bench-env-*/bench.json")
    rows = [row[0] for row in json.loads(file.read_text())["rows"]]
    assert len(rows) == 4 and rows[1] == "control steps/s, state, real mass"
    assert main(["bench", "serve", "--domain-randomization", "real"]) == 2


def test_serve(capsys):
    assert main(["bench", "serve", "--image-size", "80", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for way in ("in-process", "websocket, inline", "websocket, shared memory"):
        for batch in ("1", "16"):
            row = next(line for line in lines if re.search(rf"{way} +│ +{batch} ", line))
            low, median, high = (float(x) for x in re.findall(r"\d+\.\d+", row))
            assert 0 < low <= median <= high


@pytest.mark.parametrize("obs", ["state", "rgb"])
def test_train(obs, capsys, tmp_path):
    args = ["--task", "tabletop/Reach", "--num-envs", "4", "--obs-mode", obs, "--image-size", "16", "--rounds", "2"]
    assert main(["bench", "train", *args]) == 0
    out = capsys.readouterr().out
    for part in ("env", "teacher", "inference", "update", "iteration"):
        assert re.search(rf"│ {part} .*%", out), part
    assert re.search(r"training loop: [\d,]+ steps/s", out)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # nothing else is left behind


def test_teacher(capsys):
    """Labels per second by batch; another way to ask the same teacher, beside it."""
    args = ["--task", "tabletop/Reach", "--teacher", "scripted", "--against", "scripted:bias=0.02", "--rounds", "2"]
    assert main(["bench", "teacher", *args]) == 0
    out = capsys.readouterr().out
    for name in ("scripted", "scripted:bias=0.02"):
        for batch in (1, 16, 64):
            low, median, high = numbers(next(x for x in out.splitlines() if re.search(rf"│ {name} +│ +{batch} │", x)))[-3:]
            assert 0 < low <= median <= high
    assert re.search(r"distance of their actions: 0\.[0-9]*[1-9][0-9]* .*turn: 0\.00 %", out)
    assert re.search(r"640 observations, each labelled once: .* again in each of \d+ epochs", out)


def test_distance_of_actions():
    first = torch.tensor([[0.0, 1.0], [0.5, 1.0]])
    second = torch.tensor([[0.2, 1.0], [0.1, -1.0]])
    gap, turned = difference(first, second, (False, True))
    assert gap == pytest.approx(0.3) and turned == 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_export(capsys, tmp_path):
    """Of one of the policies that are new where none is named; all of them, for they take a minute to export, do load."""
    cases = fresh("tabletop/Reach", 16, tmp_path / "students")
    assert list(cases) == ["MLP, state", "CNN, 16 x 16", "diffusion, euler:steps=16", "diffusion, rti:timesteps=3"]
    assert [pretrained.load(case.source).spec.task for case in cases.values()] == ["tabletop/Reach"] * 4
    policy = cases["CNN, 16 x 16"].source
    assert main(["bench", "export", str(policy), "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for way in ("torch", "onnx"):
        row = next(line for line in lines if re.search(rf"│ +{way} ", line))
        mean, p50, p99 = (float(x) for x in re.findall(r"\d+\.\d+", row))
        assert mean > 0 and 0 < p50 <= p99
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "students"]
    assert main(["bench", "export", "nowhere"]) == 2
    assert "unknown policy 'nowhere': valid: " in capsys.readouterr().err
