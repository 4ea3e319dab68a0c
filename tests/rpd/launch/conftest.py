"""A small sweep and a small evaluation, their drivers, and a check that every process ends."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from rpd.cli.main import main
from rpd.launch.attempts import History, read
from rpd.launch.job import Job
from tests import warm

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "algorithm": "ppo", "env": {"num_envs": 4, "max_episode_steps": 10}, "student": {"hidden_dims": [8]},
    "ppo": {"num_steps": 8, "update_epochs": 1},
    "eval_freq": 1_000_000, "eval_episodes": 2, "final_eval_episodes": 2, "save_freq": 320,
}  # fmt: skip
LIMIT_S = 600


def until(condition, driver=None):
    """Wait for a condition, while a driver runs if there is one."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        assert driver is None or driver.poll() is None, driver.output()
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def interrupts_count():
    """Do not ignore SIGINT: a shell's background jobs do, with all processes that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sweep(tmp_path):
    """Write a sweep; returns its file."""

    def write(seeds, steps, robots=("panda", "so101")):
        content = {"out": "sweep", "tasks": ["tabletop/Reach"], "robots": list(robots), "seeds": seeds}
        content["settings"] = SETTINGS | {"total_timesteps": steps}
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
        return "s.yaml"

    return write


@pytest.fixture
def evaluation():
    """Arguments of an evaluation of which a part succeeds, and its unsharded result."""

    def build(episodes):
        words = ["eval", "scripted:biased", "--suite", "tabletop", "--task", "tabletop/PickCube"]
        words += ["--episodes", str(episodes), "--num-envs", "1", "--video", "False"]
        assert main([*words, "--out", "whole"]) == 0
        return words

    return build


class Driver(warm.Process):
    """A command of `rpd` in the working folder, and its output."""

    def __init__(self, words, log):
        self._log = log
        super().__init__(["-m", "rpd", *map(str, words)], os.environ, Path.cwd(), log)

    def output(self):
        """Wait for its end; returns what it has printed."""
        self.wait(LIMIT_S)
        return self._log.read_text()


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Start a driver in the folder of the test; it ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def start(*words):
        started.append(Driver(words, tmp_path / f"driver-{len(started)}.txt"))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def all_end():
    """Wait, after the test, until the processes that it has started have ended."""
    warm.begin()  # it stays, as do earlier processes, e.g. robots that the tests of rpd.deploy keep
    pids, earlier = set(), descendants()
    yield lambda: pids.update(descendants() - earlier)
    until(lambda: not any(_lives(pid) for pid in pids))


def descendants():
    """Processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, wave = set(), {os.getpid()}
    while wave := {pid for pid, parent in parents.items() if parent in wave} - found:
        found |= wave
    return found


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def histories(logs: Path) -> dict[str, History]:
    return {path.stem: read(Job(path.stem, (), path.with_suffix(".log"))) for path in logs.glob("*.attempts")}


def underway(logs: Path) -> list[str]:
    return [name for name, history in histories(logs).items() if len(history.hosts) > len(history.ends)]


def same_results(one: Path, other: Path):
    """Whether two folders have the same episodes and the same summary."""
    a, b = (json.loads((folder / "eval.json").read_text()) for folder in (one, other))
    for summary in (a, b):
        for key in ("time", "versions", "git", "machine"):
            summary.pop(key, None)
    return a == b and (one / "episodes.jsonl").read_bytes() == (other / "episodes.jsonl").read_bytes()
