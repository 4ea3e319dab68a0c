"""Messages as by the command line, and the markers of whole folders."""

from pathlib import Path

import pytest

from rpd.cli.messages import show_messages

TESTS = Path(__file__).parent
FOLDERS = {
    "maniskill": ("envs/maniskill",),
    "libero": ("envs/libero", "teachers/scripted/test_libero.py"),
    "slow": (
        "envs/robosuite",
        "envs/test_episode_of_seed.py",
        "rpd/bench",
        "rpd/cli",
        "rpd/config/test_loader.py",
        "rpd/core/test_children.py",
        "rpd/core/test_interrupt.py",
        "rpd/core/test_user_files.py",
        "rpd/datasets",
        "rpd/deploy",
        "rpd/evaluation",
        "rpd/export",
        "rpd/launch/test_attempt.py",
        "rpd/launch/test_choose.py",
        "rpd/launch/test_ray.py",
        "rpd/launch/test_slurm.py",
        "rpd/policies",
        "rpd/runs",
        "rpd/serve",
        "rpd/test_api.py",
        "rpd/training",
        "teachers/octo",
        "teachers/openvla",
        "teachers/scripted",
        "teachers/test_acting.py",
        "teachers/test_nan.py",
        "teachers/test_zoo.py",
        "test_compass.py",
        "test_imports.py",
        "test_distribution.py",
        "test_notebook.py",
        "test_prose.py",
        "test_readme.py",
        "test_results.py",
    ),
}
"""Folders and files that get a marker: `slow` where tests train, serve, load large libraries or start processes."""

GROUPS = ("rpd/deploy", "rpd/export", "rpd/training/test_ranks.py")
"""Folders and files whose tests share parts that take long to make: with ``--dist loadgroup``, one process runs each."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what ``-m "not MARKER"`` leaves out: it takes longer than the tests that remain."""
    left_out = [FOLDERS[marker] for marker in FOLDERS if f"not {marker}" in config.option.markexpr]
    return any(collection_path == TESTS / place for places in left_out for place in places) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `FOLDERS` and `GROUPS`."""
    for item in items:
        for place in GROUPS:
            if item.path.is_relative_to(TESTS / place):
                item.add_marker(pytest.mark.xdist_group(place))
        for marker, places in FOLDERS.items():
            if any(item.path.is_relative_to(TESTS / place) for place in places):
                item.add_marker(marker)


@pytest.fixture(scope="session", autouse=True)
def messages():
    """What the library logs is printed, as by the command line."""
    show_messages()
