import sys
from pathlib import Path

import pytest

from rpd.envs import user_files


@pytest.fixture
def examples(monkeypatch):
    """Import the examples as a user's file; returns the prefix of their tasks."""
    monkeypatch.setattr(user_files, "_loaded", [])
    monkeypatch.setenv(user_files.VARIABLE, "")
    monkeypatch.delitem(sys.modules, "gym_examples", raising=False)
    user_files.load([Path(__file__).with_name("gym_examples.py")])
    yield "gym/gym_examples:"
    del sys.modules["gym_examples"]
