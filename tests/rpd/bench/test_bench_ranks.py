"""`rpd bench ranks`: processes that train together, their times, and the table."""

import json

import pytest

from rpd.bench import ranks
from rpd.bench.rank_growth import measure as measure_growth
from rpd.cli.main import main
from rpd.config.loader import configure
from rpd.envs.errors import RunFault

REACH = ["bench", "ranks", "--task", "tabletop/Reach", "--num-envs", "2", "--rounds", "1"]


def test_one_and_two_ranks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ranks, "ITERATIONS", 1)
    assert main([*REACH, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    rows = {row[0]: row[1:] for row in found["rows"]}
    one, two, low, median, high = rows["steps/s"]
    assert one > 0 and two > 0 and low == median == high == pytest.approx(two / one)
    minibatches = 5 * 8
    assert rows["all-reduces of gradients"][:2] == [0, minibatches + 1]  # and one to compare gradients
    assert rows["kB sent by a rank for gradients"][0] == 0
    sizes = sorted(c["size"] for c in found["collectives"])
    compared, gradients = sizes[-1], sizes[-1 - minibatches : -1]
    assert len(set(gradients)) == 1 and rows["kB sent by a rank for gradients"][1] == (compared + sum(gradients)) / 1000
    parts = found["parts"]["wall"]
    assert len(parts["mean"]) == len(found["collectives"]) + 1 and parts["samples"] == 2
    for iteration in [rank[0] for rank in found["iterations"]["2"]]:
        spent = ("collecting", "update without waiting", "all-reduces of gradients", "other collectives", "iteration")
        *these, whole = (iteration[f"{name}, ms"] for name in spent)
        assert sum(these) == pytest.approx(whole) and min(these) > 0
    for case in found["simulated"]:
        assert case["efficiency"] == pytest.approx(case["alone"] / (case["compute"] + case["communication"] + case["growing"]))
    assert {case["ranks"] for case in found["simulated"]} == {2, 8, 64, 512}
    printed = capsys.readouterr().out
    assert "simulated, CPU times" in printed and "1 GbE (50 µs, 0.125 GB/s assumed): " in printed and "load average" in printed


def test_growing_work():
    config = configure("tabletop/Reach", {"teacher": "scripted"}).ppo
    few, many = (measure_growth(n, 16, 7, config, 500) for n in (1, 512))
    assert many.noise > few.noise and many.permutations > few.permutations and many.episodes > few.episodes > 0
    assert many.total == many.noise + many.permutations + many.episodes


@pytest.mark.parametrize("sizes", [["2"], ["2", "1"], ["1", "1"]])
def test_numbers_of_ranks_that_cannot_be_compared(sizes, capsys):
    assert main([*REACH, "--ranks", *sizes]) == 2
    assert f"--ranks {' '.join(sizes)}: at least two numbers of ranks in rising order" in capsys.readouterr().err


def test_a_gpu_is_refused(capsys):
    assert main([*REACH, "--device", "cuda"]) == 2
    assert "rpd bench ranks measures processes on CPU cores: leave out --device cuda" in capsys.readouterr().err


def test_the_error_of_a_rank_is_reported(capfd):
    assert main([*REACH, "--teacher", "remote:ws://127.0.0.1:9"]) == 2
    assert "127.0.0.1:9" in capfd.readouterr().err


def test_a_rank_that_ends_is_reported(monkeypatch):
    monkeypatch.setattr(ranks, "python", lambda code, *words: ["false"])
    config = configure("tabletop/Reach", {"teacher": "scripted", "num_threads": 1})
    with pytest.raises(RunFault, match="a rank of rpd bench ranks has ended"):
        ranks.measure(config, (1, 2), 1)
