"""Every mistake is one line that names it and what would be right, exit code 2, and nothing has been started."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rpd import __version__
from rpd.cli import list as listing
from rpd.cli.main import VERBS, main
from rpd.envs.errors import ConfigError
from rpd.teachers.registry import list_teachers
from rpd.teachers.scripted import ScriptedTeacher
from rpd.training.on_policy import OnPolicyTrainer

REACH = "tabletop/Reach"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(args, capsys):
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("rpd") and err.count("\n") == 1 and "Traceback" not in err
    assert os.listdir() == []
    return err.strip()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("trian", "rpd: unknown verb 'trian': did you mean train"),
        ("train", "rpd train: which task? e.g. 'rpd train tabletop/PickCube"),
        ("train tabletop/PickCub", "rpd train: unknown task 'tabletop/PickCub': did you mean tabletop/PickCube"),
        ("train PickCube", "rpd train: unknown task 'PickCube': did you mean tabletop/PickCube"),
        ("train foo/Bar", "rpd train: unknown task 'foo/Bar': valid: "),
        (f"train {REACH} --ppo.lrr 1", "rpd train: unknown option '--ppo.lrr': did you mean"),
        (f"train {REACH} --num-envs 4", "rpd train: unknown option '--num-envs': did you mean --env.num-envs"),
        (f"train --task {REACH}", "rpd train: unknown option '--task': write its value without a name"),
        (f"train {REACH} --ppo.gamma 2", "rpd train: --ppo.gamma 2.0: Input should be less than or equal to 1"),
        (f"train {REACH} --total-timesteps many", "rpd train: --total-timesteps takes INT, not 'many'"),
        (f"train {REACH} --algorithm foo", "Expected one of ('rpd', 'ppo', 'dagger', 'bc')"),
        (f"train {REACH} --config none.yaml", "rpd train: cannot read none.yaml: No such file or directory"),
        (f"train {REACH}", "rpd train: algorithm rpd needs a teacher: add --teacher"),
        (f"train {REACH} --algorithm dagger", "rpd train: algorithm dagger needs a teacher: add --teacher"),
        (
            f"train {REACH} --algorithm ppo --teacher scripted",
            "rpd train: algorithm ppo uses no teacher, but teacher is 'scripted'",
        ),
        (f"train {REACH} --teacher scriptd", "rpd train: unknown teacher 'scriptd': did you mean scripted?"),
        (f"train {REACH} --teacher scripted:flip=1", "option of teacher scripted 'flip': it is gripper_error_rate now"),
        (f"train {REACH} --teacher scripted:nois=1", "unknown option of teacher scripted 'nois': did you mean noise"),
        (f"train {REACH} --teacher scripted:noise=9", "noise=9: Input should be less than or equal to 2"),
        (f"train {REACH} --teacher scripted:noize", "unknown preset of teacher scripted 'noize': did you mean noisy?"),
        (f"train {REACH} --teacher /none", "rpd train: /none: does not exist: expected a run"),
        (f"train {REACH} --teacher scripted --env.robot pand", "unknown robot for tabletop/Reach 'pand': did you mean panda?"),
        (f"train {REACH} --teacher scripted --env.obs-mode rgb --env.cameras fron", "'fron': did you mean front?"),
        (f"train {REACH} --teacher scripted --env.control-mode x", "env.control_mode does not apply to tabletop/Reach"),
        (f"train {REACH} --teacher scripted --device gpu", "unknown device 'gpu': use auto, cpu, cuda"),
        (f"train {REACH} --teacher scripted --device cuda:99", "device 'cuda:99' does not exist"),
        (f"train {REACH} --teacher scripted --distill.label-fraction 0.001", "of 128 environments is less than one label"),
        (f"train {REACH} --teacher scripted --student.init-log-std 5", "init_log_std 5 must lie between"),
        ("train --resume runs/none", "rpd train: runs/none is not a run that can be resumed: it has no config.yaml"),
        ("train --resume runs/none --seed 3", "is not a run that can be resumed"),
        ("eval", "rpd eval: missing STR: Policy reference: a run, a checkpoint, a policy or exported folder"),
        ("eval zer", "rpd eval: unknown policy 'zer': did you mean zero?"),
        ("eval runs/none", "rpd eval: runs/none: does not exist: expected a run"),
        ("eval zero", "rpd eval: zero: on which task? add --task"),
        ("eval zero --task tabletop/Reech", "rpd eval: unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
        (f"eval zero --task {REACH} --episodes 0", "rpd eval: --episodes 0: Input should be greater than or equal to 1"),
        (f"eval scriptd --task {REACH}", "rpd eval: unknown policy 'scriptd': did you mean scripted?"),
        (f"eval zero zer --task {REACH}", "rpd eval: unknown policy 'zer': did you mean zero?"),
        (f"eval . --task {REACH}", "expected a run with checkpoints, a checkpoint, or a policy folder"),
        ("list tasks a b", "rpd list: unexpected 'b'"),
        ("doctor --foo", "rpd doctor: unknown option '--foo'"),
        ("report", "rpd report: "),
        ("report none", "rpd report: none is not a run"),
        ("bench", "rpd bench: missing {env,train,teacher,octo,serve,replicas,ranks,export,deploy,simtosim,safety,diffusion}"),
        (
            "bench all",
            "Expected one of ('env', 'train', 'teacher', 'octo', 'serve', 'replicas', 'ranks', 'export', ",
        ),
        ("bench env --task tabletop/Reech", "rpd bench: unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
    ],
)
def test_refused(args, message, capsys):
    assert message in refused(args.split(), capsys)


def test_divergence_that_the_teacher_cannot_serve(monkeypatch, capsys):
    init = ScriptedTeacher.__init__

    def mean_only(self, *args):
        init(self, *args)
        self.output_fields = frozenset({"mean"})

    monkeypatch.setattr(ScriptedTeacher, "__init__", mean_only)
    args = ["train", REACH, "--teacher", "scripted", "--distill.divergence"]
    expected = "divergence fkl needs the teacher's bin_logits or samples or std, but teacher scripted provides only mean; use "
    assert f"rpd train: {expected}" in refused([*args, "fkl"], capsys)
    assert "gate entropy needs the teacher's std" in refused([*args, "mse", "--distill.gate", "entropy"], capsys)


def test_policy_on_another_robot_or_as_its_teacher(small, tmp_path, monkeypatch, capsys):
    assert OnPolicyTrainer(small(total_timesteps=32), tmp_path / "run").run()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    said = "robot differ: policy (tabletop/Reach) has panda; environment (tabletop/Reach) has so101"
    assert said in refused(["eval", "../run", "--robot", "so101"], capsys)
    assert said in refused(["train", REACH, "--env.robot", "so101", "--teacher", "../run"], capsys)
    said = refused(["eval", "../run", "--task", REACH, "--obs-mode", "rgb"], capsys)
    assert "observations differ" in said and "image.front[64, 64, 3]:uint8" in said and "state[" in said
    assert "unknown policy '../rum': did you mean ../run" in refused(["eval", "../rum"], capsys)
    assert "unknown run '../rum': did you mean ../run?" in refused(["train", "--resume", "../rum"], capsys)


def test_folder_that_is_taken(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*arguments(), "--runs-dir", "file"]) == 2
    assert "file is a file: results need a folder" in capsys.readouterr().err
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "thesis.tex").write_text("")
    assert main([*arguments(), "--name", "x"]) == 2
    assert "runs/x exists already: choose another --name" in capsys.readouterr().err
    assert os.listdir(tmp_path / "runs" / "x") == ["thesis.tex"]


def test_train_and_report(arguments, capsys):
    results = ["--results", f"file://{Path.cwd()}/copies"]
    assert main([*arguments(algorithm="ppo", teacher=None, total_timesteps=64), "--name", "x", *results]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"results: file://{Path.cwd()}/copies/x\n")
    assert Path("copies/x/report.html").read_bytes() == Path("runs/x/report.html").read_bytes()
    assert main(["train", "--resume", "runs/x", *results]) == 0
    assert capsys.readouterr().out.endswith("/copies/x, which is complete\n")
    assert "PPO student" in out and "run: runs/x" in out and Path("runs/x/report.html").stat().st_size > 1000
    assert main(["report", "runs/x", "--out", "y.html"]) == 0
    assert capsys.readouterr().out.strip() == "y.html" and Path("y.html").exists()


@pytest.mark.parametrize("words", [["train", "tabletop/Reach", "--teacher", "scripted"], ["sweep", "s.yaml"], ["eval", "zero"]])
def test_results_that_cannot_be_written_are_refused_before_anything_starts(words, capsys):
    Path("s.yaml").write_text("{out: out, tasks: [tabletop/Reach], robots: [panda], seeds: [0]}")
    assert main([*words, "--results", "foo://x"]) == 2
    assert capsys.readouterr().err == f"rpd {words[0]}: --results foo://x: cannot be written: Protocol not known: foo\n"
    assert not Path("runs").exists() and not Path("out").exists()


def test_usage(capsys):
    for args in (["--help"], ["-h"], ["help"], []):
        assert main(args) == 0
        out = capsys.readouterr().out
        assert all(verb in out for verb in VERBS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0 and f"usage: rpd {verb}" in capsys.readouterr().out


def test_list(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("tabletop/PickCube", "maniskill/PickCube-v1", "so101", "scripted", "fkl", "entropy"))


def test_list_finds_a_text_in_all_parts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["list", "pushcube"]) == 0
    out = capsys.readouterr().out
    assert "tabletop/PushCube" in out and "maniskill/PushCube-v1" in out and "PickCube" not in out and "Teachers" not in out
    assert main(["list", "all", "pushcube"]) == 0
    assert capsys.readouterr().out == out


def test_list_names_the_simulators_that_are_not_installed(capsys, monkeypatch):
    monkeypatch.setattr(listing, "unlisted", lambda: [ConfigError("simulator far needs a ship: build one")])
    assert main(["list", "tasks", "tabletop/"]) == 0
    assert capsys.readouterr().out.endswith("not listed: simulator far needs a ship: build one\n")
    assert main(["list", "tasks", "far/"]) == 2
    assert capsys.readouterr().err == (
        "rpd list: nothing in `rpd list tasks` contains 'far/'; not listed: simulator far needs a ship: build one\n"
    )


def test_options_of_teachers_stay_in_one_piece_at_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "teachers"]) == 0
    out = capsys.readouterr().out
    options = [part for name, _ in list_teachers() for part in re.split(r"(?=\[)", name)]
    assert all(part in out for part in options) and max(map(len, out.splitlines())) <= 80


def test_system_errors_are_one_line(monkeypatch, capsys):
    def write(*args):
        raise PermissionError(13, "Permission denied", "/somewhere/x.html")

    monkeypatch.setattr("rpd.cli.report.write", write)
    assert main(["report", "x"]) == 1
    assert capsys.readouterr().err == "rpd report: /somewhere/x.html: Permission denied\n"


def test_run_as_a_process():
    """Exit code, streams, and a reader that stops reading."""
    command = [sys.executable, "-m", "rpd.cli.main"]
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    wrong = subprocess.run([*command, "trian"], capture_output=True, text=True, env=environment, check=False)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    reader, writer = os.pipe()
    os.close(reader)
    deaf = subprocess.run(
        [*command, "--version"], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False
    )
    os.close(writer)
    assert deaf.stderr == ""
