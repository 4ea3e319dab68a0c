"""The architecture page: its examples run, its paths exist and are short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SECTIONS = [section.split("\n", 1) for section in PAGE.split("\n### ")[1:]]
EXAMPLES = [(title, re.search(r"```python\n(.*?)```", body, re.DOTALL)[1]) for title, body in SECTIONS]
TABLE = PAGE.split("## Where is")[1].split("The examples below")[0]


def test_every_way_to_extend_has_an_example():
    assert [title for title, _ in EXAMPLES] == [
        "A task", "A robot", "A divergence", "A sampler", "A simulator", "A driver",
    ]  # fmt: skip


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example_runs(title, code, monkeypatch):
    from rpd.algorithms.distillation.divergences import DIVERGENCES
    from rpd.deploy.config import DRIVERS
    from rpd.envs.registry import SIMULATORS
    from rpd.envs.robots import ROBOTS
    from rpd.envs.tabletop.tasks import TASKS
    from rpd.students.diffusion.samplers import SAMPLERS

    kept = [(registry, dict(registry)) for registry in (DIVERGENCES, DRIVERS, SIMULATORS, ROBOTS, TASKS, SAMPLERS)]
    try:
        exec(compile(code, f"architecture.md: {title}", "exec"), {"__name__": "example"})
    finally:
        for registry, content in kept:
            registry.clear()
            registry.update(content)


def test_answers_are_paths_of_at_most_two_folders():
    paths = re.findall(r"`([\w/.]+)`", TABLE)
    assert len(paths) >= 10
    for path in paths:
        assert path.rstrip("/").count("/") <= 2
        assert list(ROOT.glob(f"rpd/**/{path.rstrip('/')}")) or list(ROOT.glob(f"**/{path.rstrip('/')}")), path


def test_ladder_is_the_tested_one():
    from tests.test_imports import LADDER

    block = PAGE.split("```\n", 2)[1]
    listed = [set(line[:35].split()) for line in block.splitlines()]  # the second column begins there
    assert listed == [set(rung) for rung in LADDER]
