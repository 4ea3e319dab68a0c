"""An error that all ranks find by themselves is reported by rank 0 alone."""

import os
from pathlib import Path

import pytest

from rpd.cli.main import main
from tests import ranks

PROGRAM = str(Path(__file__).with_name("reports_on_ranks.py"))


def test_before_the_ranks_have_joined(tmp_path):
    codes, (first, second) = ranks.rpd(["train", "tabletop/None"], 2, tmp_path)
    assert codes == [2, 2] and second == ""
    assert first.startswith("rpd train (rank 0): unknown task 'tabletop/None'") and first.count("\n") == 1


@pytest.mark.parametrize(("other", "reported"), [("too few rows", ""), ("no such file", "rpd train (rank 1): no such file\n")])
def test_after_the_ranks_have_joined(other, reported, tmp_path):
    codes, outputs = ranks.run([[PROGRAM, "too few rows", other]] * 2, tmp_path)
    assert codes == [2, 2] and outputs == ["rpd train (rank 0): too few rows\n", reported]


def test_torch_prints_no_traces_next_to_the_line(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "TORCH_CPP_LOG_LEVEL": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")
    assert main(["--version"]) == 0 and os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
