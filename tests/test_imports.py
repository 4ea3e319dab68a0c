"""The house rules: who imports whom, what stays light, small files, no pickle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rpd", "envs", "teachers", "students", "configs")
MAY_IMPORT = {
    "rpd": ("rpd", "envs", "teachers", "students", "configs"),
    "teachers": ("teachers", "students", "envs.specs", "envs.privileged", "envs.errors", "envs.options", "envs.tee"),
    "students": ("students", "envs.specs", "envs.privileged", "envs.errors", "envs.options"),
    "envs": ("envs",),
    "configs": ("configs",),
}
HEAVY = ("mani_skill", "sapien", "stable_baselines3", "matplotlib", "transformers", "pandas", "scipy", "cv2", "IPython")
MAX_LINES = 450

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported name, in functions too: ``from envs import specs`` -> ``envs.specs``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == m or name.startswith(m + ".") for m in modules)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source_file(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    package = path.relative_to(ROOT).parts[0]
    for name in imports(tree):
        if within(name, PACKAGES):
            assert within(name, MAY_IMPORT[package]), f"{package} must not import {name}"
            assert not within(name, ("rpd.cli",)) or path.name == "__main__.py", "nothing imports rpd.cli"
    assert len(text.splitlines()) <= MAX_LINES, "one idea per file"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        assert function not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load"), "no pickle from files"
        if function == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords), "weights_only=True"


def test_core_stays_light():
    """A fresh interpreter imports the command line and the registries without any heavy package."""
    code = f"""
import sys
import rpd.cli, envs.registry, teachers.registry, teachers.policy, teachers.sb3, teachers.openvla, students.actor_critic
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_missing_extra_is_one_line():
    """Without stable-baselines3, its adapter says what to install."""
    code = """
import sys
sys.modules["stable_baselines3"] = None
from envs.errors import ConfigError
try:
    import envs.sb3
except ConfigError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'rpd[sb3]'" in result.stdout and result.stdout.count("\n") == 1
