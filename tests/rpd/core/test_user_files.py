"""A file of the user's own tasks, robots and teachers works on every verb, in every process, and only where it is asked for."""

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml

from rpd.cli.main import main
from rpd.envs import user_files
from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.tasks import TASKS
from rpd.teachers.families import FAMILIES

FILE = """
from dataclasses import replace

import torch

from rpd.envs.robots import ROBOTS
from rpd.envs.tabletop.tasks import TASKS
from rpd.cli.main import main
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.families import FAMILIES, Family

TASKS["ReachFar"] = replace(TASKS["Reach"], name="ReachFar")
ROBOTS["panda_slow"] = replace(ROBOTS["panda"], name="panda_slow", max_delta_pos=0.02)


class Still(Teacher):
    output_fields = frozenset({"mean"})

    def check_env(self, spec):
        pass

    def label(self, obs, instructions, student_action=None):
        return TeacherOutput(torch.zeros(len(instructions), 7), valid=torch.ones(len(instructions), dtype=torch.bool))


def from_string(argument, options, spec, device):
    return Still()


FAMILIES["still"] = Family(__name__, "still", "never moves")

if __name__ == "__main__":
    raise SystemExit(main())
"""
TASK = "tabletop/ReachFar"
SMALL = (
    "--env.num-envs", 2, "--env.max-episode-steps", 4, "--ppo.num-steps", 4, "--ppo.num-minibatches", 1,
    "--student.hidden-dims", 8,
    "--total-timesteps", 8, "--eval-episodes", 1, "--final-eval-episodes", 1, "--num-threads", 1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A process that has imported no file of the user's, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(user_files.VARIABLE, raising=False)
    kept = [(registry, dict(registry)) for registry in (TASKS, ROBOTS, FAMILIES, user_files._recorded)]
    before = set(sys.modules)
    monkeypatch.setattr(user_files, "_loaded", [])
    yield
    os.environ.pop(user_files.VARIABLE, None)
    for registry, content in kept:
        registry.clear()
        registry.update(content)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path.parent)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file, a run, an export and demonstrations made with it, and a robot file; by another process, as children see it."""
    root = tmp_path_factory.mktemp("user")
    (root / "mine.py").write_text(FILE)
    text = resources.files("rpd.configs").joinpath("robots/sim.yaml").read_text()
    (root / "slow.yaml").write_text(text.replace("kinematics: panda", "kinematics: panda_slow"))
    train = ["train", TASK, "--teacher", "still", "--env.robot", "panda_slow", "--name", "x", *map(str, SMALL)]
    code = subprocess.run([sys.executable, "mine.py", *train], cwd=root, capture_output=True, text=True)
    assert code.returncode == 0, code.stderr
    return root


def imported(made, *words):
    return main([*map(str, words), "--import", str(made / "mine.py")])


def test_verbs_that_need_a_run(made, capsys):
    run, quick = made / "runs" / "x", ("--episodes", 1, "--video", False, "--out")
    for number, words in enumerate(
        [
            ("eval", run, *quick, "eval"),
            ("eval", "still", run, *quick, "pair"),
            ("train", "--resume", run),
            ("train", TASK, "--teacher", str(run), "--env.robot", "panda_slow", "--name", "y", *SMALL),
            ("residual", run, TASK, "--env.robot", "panda_slow", "--name", "z", *SMALL),
            ("residual", "still", TASK, "--algorithm", "ppo", "--name", "r", *SMALL),
            ("report", run),
            ("generalist", run, "--name", "g", "--train-steps", 2, "--dagger-iterations", 0, "--episodes", 2, "--num-envs", 2,
             "--eval-episodes", 1, "--final-eval-episodes", 1),
            ("list",),
            ("teacher", "show", "still", "--task", TASK),
            ("doctor", "--plan", TASK, "--teacher", "still"),
        ]
    ):  # fmt: skip
        assert imported(made, *words) == 0, (number, words, capsys.readouterr().err)


def test_collect_and_bc_with_user_modules(made):
    pytest.importorskip("h5py")
    small = ("--env.num-envs", 2, "--env.image-size", 16, "--num-threads", 1)
    assert (
        imported(made, "data", "collect", TASK, "--policy", "still", "--keep", "all", "--episodes", 2, "--out", "demos", *small)
        == 0
    )
    assert imported(made, "data", "show", "demos") == 0
    small = SMALL[:4] + SMALL[8:]  # without ppo.*
    cloned = ("--env.obs-mode", "rgb", "--env.image-size", 16, "--name", "bc", *small)
    assert imported(made, "train", TASK, "--algorithm", "bc", "--demos", "demos", *cloned) == 0


def test_sweep_in_its_children(made, tmp_path):
    settings = {
        "teacher": "still",
        **dict.fromkeys(("eval_episodes", "final_eval_episodes"), 1),
        "total_timesteps": 8,
        "env": {"num_envs": 2},
    }
    settings |= {"ppo": {"num_steps": 4, "num_minibatches": 1}}
    sweep = {"out": "s", "tasks": [TASK], "robots": ["panda_slow"], "settings": settings}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert imported(made, "sweep", "sweep.yaml", "--jobs", 1) == 0


def test_robot_policy_and_camera_processes(made):
    pytest.importorskip("msgpack")
    quick = ("--robot", made / "slow.yaml", "--seconds", 0.3, "--out")
    assert imported(made, "deploy", made / "runs" / "x", *quick, "x.rpdlog") == 0
    assert imported(made, "deploy", "still", "--task", TASK, *quick, "t.rpdlog") == 0
    assert imported(made, "log", "x.rpdlog", "--policy", made / "runs" / "x") == 0


def test_an_export(made):
    pytest.importorskip("onnxruntime")
    assert imported(made, "export", made / "runs" / "x", "--out", "e") == 0
    assert imported(made, "eval", "e", "--episodes", 1, "--video", False) == 0


def test_worker_imports_it(made, monkeypatch):
    """Every process that builds simulations begins so."""
    from rpd.envs.backends.subprocess import worker

    monkeypatch.setenv(user_files.VARIABLE, str(made / "mine.py"))
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        worker._factory({"module": "nothing", "arguments": {}})
    assert "ReachFar" in TASKS and user_files.loaded() == (str(made / "mine.py"),)


@pytest.mark.parametrize("words", [["eval", "{run}"], ["train", "--resume", "{run}"], ["export", "{run}", "--robot", "panda"]])
def test_folder_never_has_its_file_imported(made, words, capsys):
    """It is named by the message, and nothing of it is executed before somebody asks."""
    run = made / "runs" / "x"
    (run / "result.json").rename(run / "kept.json")
    try:
        assert main([word.format(run=run) for word in words]) == 2
    finally:
        (run / "kept.json").rename(run / "result.json")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"was made with a file of tasks and teachers: add --import {made / 'mine.py'}" in said
    assert "mine" not in sys.modules and "ReachFar" not in TASKS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("raise ValueError('a\\nb')", "cannot import .*bad.py: ValueError: a b"),
        ("import nothing_here", "cannot import .*bad.py: ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "ends the program when it is imported: keep that below if __name__"),
        ("def", "SyntaxError"),
    ],
)
def test_file_that_cannot_be_imported(tmp_path, text, said, capsys):
    if text is not None:
        (tmp_path / "bad.py").write_text(text)
    assert main(["list", "--import=bad.py"]) == 2
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    assert re.search(said, out)
    assert "bad" not in sys.modules


def test_file_with_the_name_of_a_library(tmp_path, capsys):
    for name in ("numpy", "tomllib" if sys.version_info >= (3, 11) else "tabnanny", "yaml"):
        Path(f"{name}.py").write_text("raise RuntimeError('executed')")
        assert main(["list", "--import", f"{name}.py"]) == 2
        assert "rename the file" in capsys.readouterr().err


def test_option_without_its_file(capsys):
    assert main(["list", "--import"]) == 2
    assert "--import: which file?" in capsys.readouterr().err


def test_neighbors_of_a_file_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "neighbor_of_mine.py").write_text("VALUE = 3")
    (tmp_path / "sub" / "first.py").write_text("from neighbor_of_mine import VALUE")
    before = list(sys.path)
    user_files.load(["sub/first.py"])
    assert sys.modules["first"].VALUE == 3 and sys.path == before


def test_two_files_do_not_share_a_neighbor_of_one_name(tmp_path, capsys):
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "constants_of_mine.py").write_text(f"VALUE = {value}")
        (tmp_path / name / f"file_{name}.py").write_text("from constants_of_mine import VALUE")
    assert main(["list", "--import", "a/file_a.py", "--import", "b/file_b.py"]) == 2
    said = capsys.readouterr().err
    assert "its folder has constants_of_mine.py, and " in said and "rename one" in said and said.count("\n") == 1
