"""`rpd teacher show`, and a run whose teacher is a VLA."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpd.cli import main

TINY = Path(__file__).parent.parent / "teachers" / "openvla" / "golden" / "checkpoint"
VLA = f"openvla:{TINY},unnorm_key=tiny_bridge,bridge=metres"


def test_show_a_vla(capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["teacher", "show", VLA, "--task", "tabletop/PickCube"]) == 0
    out = capsys.readouterr().out
    for words in ("tiny_bridge (of 2)", "view.front or image.front", "2,210,734", "resize-naive to 70", "pick up the red cube"):
        assert words in out
    assert all(word in out for word in ("-0.03, 0.03 m", "-0.2364, 0.2382", "1 opens, 0 closes"))


def test_show_another_teacher(capsys):
    assert main(["teacher", "show", "scripted:noisy", "--task", "tabletop/Reach", "--robot", "so101"]) == 0
    out = capsys.readouterr().out
    assert "scripted:noisy in tabletop/Reach · so101" in out and "mean, std" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "rpd teacher: what about a teacher? usage: rpd teacher show NAME --task TASK"),
        (["shw"], "rpd teacher: unknown verb of rpd teacher 'shw': did you mean show?"),
        (["show", "scripted"], "rpd teacher: missing"),
        (["show", "scriptd", "--task", "tabletop/Reach"], "unknown teacher 'scriptd': did you mean scripted?"),
        (["show", "scripted", "--task", "tabletop/Reech"], "unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
        (["show", "openvla:/none", "--task", "tabletop/Reach"], "rpd teacher: /none: does not exist"),
        (["show", VLA + ",camera=", "--task", "tabletop/Reach"], "'camera=' is not an option; write key=value"),
    ],
)
def test_refusals(args, said, capsys):
    assert main(["teacher", *args]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    settings = "--total-steps 8 --env.num-envs 4 --ppo.num-steps 2 --eval-episodes 1 --final-episodes 1 --num-threads 1"
    views = "--env.teacher-cameras front --env.teacher-image-size 70 --env.max-episode-steps 3 --name x"
    args = ["train", "tabletop/Reach", "--teacher", VLA, *settings.split(), *views.split()]
    assert main([*args, "--distill.divergence", "fkl"]) == 0
    assert "student - teacher" in capsys.readouterr().out
    assert (tmp_path / "runs" / "x" / "result.json").is_file()
