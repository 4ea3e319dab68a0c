"""scripts/check_prose.py: the word list, and the project itself."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("check_prose", ROOT / "scripts" / "check_prose.py")
check_prose = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_prose)


def test_the_project_passes(capsys):
    assert check_prose.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""What a model has to be told of the data."""', ["What", "told"]),
        ("a.py", '"""Load a policy. Raises: ValueError."""\nx = 1  # nobody reads it', ["nobody"]),
        ("a.py", 'raise ValueError("the teacher says so")', ["says"]),
        ("a.py", '"""Return `what` the ``server says``."""', []),
        ("tests/test_a.py", "def test_what_is_told():\n    pass", ["told", "what is told"]),
        ("tests/test_a.py", "def test_policy_is_loaded():\n    says = 1", []),
        ("a.md", "A student hears.\n```\nsays\n```\n`told`", ["hears"]),
        ("a.yaml", "says: 1  # the default, anew", ["anew"]),
    ],
)
def test_findings(name, text, found, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert sorted(what.split(":")[0] for _, what in check_prose.findings(path)) == sorted(found)
