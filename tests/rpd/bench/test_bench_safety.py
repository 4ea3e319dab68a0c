import json

import numpy as np
import pytest

from rpd.bench.safety import COLUMNS, TimedChecker, cells, measure, verdict
from rpd.cli.main import main
from rpd.deploy import safety
from rpd.deploy.safety import JointCommand
from rpd.envs.control.limit_config import robot_files


def test_adversarial_commands_stay_within_every_limit():
    usages = dict(measure(600, seed=1, names=("panda", "so101")))
    for name, usage in usages.items():
        assert usage.commands == 600 and usage.violated == []
        assert len(usage.limits) == 7 and all(0.3 < used <= 1 + 1e-6 for used in usage.limits.values())  # and come close to it
        assert usage.clamps["collision"] > 0
        assert len(cells(name, usage)) == len(COLUMNS)
    assert verdict(list(usages.values())) == "1,200 commands: every limit kept"


def test_violations_are_found_without_checks_of_collisions(monkeypatch):
    monkeypatch.setattr(TimedChecker, "collision", lambda self, way: None)
    ((_, usage),) = measure(1000, names=["panda"])
    assert usage.violated == ["clearance"]
    assert verdict([usage]) == "1,000 commands: VIOLATED: clearance"


def test_violations_are_found_if_a_late_command_starts_from_rest(monkeypatch):
    monkeypatch.setattr(safety, "after_gap", lambda before, *_: JointCommand(before.position, np.zeros_like(before.position)))
    ((_, usage),) = measure(1000, names=["ur5e"])
    assert "acceleration" in usage.violated


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    assert main(["bench", "safety", "--commands", "100", "--out", str(tmp_path / "out")]) == 0
    assert f"{100 * len(robot_files()):,} commands: every limit kept" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row[0] for row in found["rows"]] == robot_files()
