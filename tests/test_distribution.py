"""The distribution's name: `rpd` on PyPI is another project, so nothing here may tell anybody to install it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("rpd", "envs", "teachers", "students", "configs", "docs", "notebooks", "scripts", "tests", "results")
ENDINGS = {".py", ".md", ".ipynb", ".yaml", ".toml", ".sh", ".txt", ".json"}
FILES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")) if p.suffix in ENDINGS and p.is_file()]
FILES += [p for p in sorted(ROOT.iterdir()) if p.is_file() and (p.suffix in ENDINGS or p.name == "Makefile")]
STRANGER = re.compile(r"\brpd\\?\[|pip3? install [^\n`#]*(?<![\w./-])rpd(?![\w/-])")
PROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = set(re.findall(r"^([\w-]+) = \[", PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0], re.MULTILINE))


@pytest.mark.parametrize("line", ["pip install 'rpd[ur]'", "`'rpd[franka]'`", "pip install rpd", 'pip install -U "rpd"'])
def test_these_lines_install_a_stranger(line):
    assert STRANGER.search(line)


@pytest.mark.parametrize(
    "line",
    ["pip install -e '.[ur]' # in a clone of rpd", "pip install rpd-distill", "pip install -r rpd/requirements.txt"],
)
def test_correct_lines_are_accepted(line):
    assert not STRANGER.search(line)


def test_no_file_installs_another_project():
    assert len(FILES) > 300
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if STRANGER.search(line)
    ]
    assert found == []


def test_project_names_itself_as_one():
    name = re.search(r'^name = "(.+)"', PROJECT, re.MULTILINE)[1]
    assert name == "rpd-distill" and f'"{name}[' in PROJECT and f"pip install {name}" in (ROOT / "README.md").read_text()


def test_messages_name_extras_that_exist():
    """Every call of the functions that tell what to install."""
    extras = []
    for path in (p for p in FILES if p.suffix == ".py" and "tests" not in p.relative_to(ROOT).parts):
        for call in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
            if ast.unparse(call.func) in ("missing_package", "install_extra") and isinstance(call.args[-1], ast.Constant):
                extras.append(call.args[-1].value)
    assert len(extras) > 20 and set(extras) <= EXTRAS
