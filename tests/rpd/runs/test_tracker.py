import io
import json
import re
from pathlib import Path

import pytest

from rpd.envs.errors import ConfigError, RunFault
from rpd.runs.progress import Display, evaluation_line, report_progress
from rpd.runs.tracker import Tracker, read_metrics


def test_lines_are_on_disk_at_once_and_tensorboard_gets_the_same_tags(tmp_path):
    with Tracker(tmp_path, 100) as tracker:
        tracker.log(50, {"loss/policy": 0.5, "rollout/success": float("nan")})
        assert read_metrics(tmp_path) == [{"step": 50, "loss/policy": 0.5}]
        tracker.log(100, {"eval/success_once": 1.0})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert board.Tags()["scalars"] == ["loss/policy", "eval/success_once"]
    assert [(e.step, e.value) for e in board.Scalars("loss/policy")] == [(50, 0.5)]


@pytest.mark.parametrize("torn", ["", '{"step": 40, "loss/pol', '{"step": 40, "loss/policy": 4.0}'])
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, torn):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Tracker(whole, 40) as tracker:
        for step in (10, 20, 30, 40):
            tracker.log(step, {"loss/policy": step / 10})
    with Tracker(killed, 40) as tracker:
        for step in (10, 20, 30):
            tracker.log(step, {"loss/policy": step / 10})
    with (killed / "metrics.jsonl").open("a") as file:
        file.write(torn)  # kill -9 in the middle of a line
    assert [m["step"] for m in read_metrics(killed)] == [10, 20, 30]
    with Tracker(killed, 40, resume_step=20) as tracker:
        for step in (30, 40):
            tracker.log(step, {"loss/policy": step / 10})
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_new_record_starts_empty_and_a_run_without_one_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    Tracker(tmp_path, 10).close()
    assert read_metrics(tmp_path) == []


def test_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2"):
        read_metrics(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_a_fault_of_the_run(tmp_path):
    with pytest.raises(RunFault, match=r"metrics\.jsonl: No space left"), Tracker(tmp_path, 10) as tracker:
        tracker.file.close()
        tracker.file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        tracker.log(1, {"loss/policy": 1.0})


def test_without_a_terminal_the_display_prints_plain_lines(capsys):
    display = Display(200, every_s=1e9)
    display.update(50, {"time/fps": 3000.0, "rollout/success": 0.25, "rollout/ep_return": -3.5, "distill/weight": 2.0})
    display.update(100, {"rollout/success": 0.5})  # within every_s of the first: silent
    display.update(100, {"eval/success_once": 0.5, "eval/success_once_lo": 0.4, "eval/success_once_hi": 0.6})
    display.update(200, {"rollout/success": 0.75})
    display.close()
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\r" not in out
    first, evaluation, last = out.splitlines()
    assert re.fullmatch(r"50/200 · 0:00:00 left · success 25% · return -3\.50 · 3,000 steps/s · distill 2\.00", first), first
    assert evaluation == evaluation_line(
        100, {"eval/success_once": 0.5, "eval/success_once_lo": 0.4, "eval/success_once_hi": 0.6}
    )
    assert evaluation == "100 steps: evaluated, success 50% (95 % interval 40% to 60%)"
    assert last == "200/200 · 0:00:00 left · success 75% · return -3.50 · 3,000 steps/s"  # the teacher is silent


def test_terminal_gets_a_live_bar(monkeypatch, tmp_path):
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    with Tracker(tmp_path, 100) as tracker:
        tracker.log(100, {"rollout/success": 0.9})
    assert "\x1b[" in screen.getvalue() and "success 90%" in screen.getvalue()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 100, "rollout/success": 0.9}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""

    class Clock:
        now = 0.0

    monkeypatch.setattr("rpd.runs.progress.time.monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("columns", [40, 80])
def test_progress_bar_fits_the_terminal(monkeypatch, clock, columns):
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", screen)
    display = Display(10_000_000)
    clock.now = 100.0
    numbers = {"rollout/success": 0.25, "rollout/ep_return": -13.25, "time/fps": 12_345.0}
    display.update(1_234_560, numbers | {"distill/weight": 2.0, "distill/divergence": 1.234})
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "…" not in shown
    words = " ".join(shown.split())
    for word in ("1,234,560/10,000,000", "0:11:50", "left", "25%", "-13.25", "12,345", "distill", "divergence", "1.234"):
        assert word in words, word


def test_display_drops_divergence_when_distillation_ends():
    display = Display(400)
    display.update(100, {"rollout/success": 0.5, "distill/weight": 0.33, "distill/divergence": 1.0})
    assert "distill 0.33 · divergence 1.000" in display.line(100)
    display.update(200, {"time/fps": 10.0})
    assert "success 50%" in display.line(200) and "distill" not in display.line(200) and "divergence" not in display.line(200)


def test_long_iteration_shows_progress(capsys, clock):
    display = Display(1000, every_s=10.0)
    display.open()
    for step in range(1, 51):
        clock.now = 2.0 * step
        report_progress("collecting", step, 50)
    display.update(100, {"rollout/success": 0.5})
    for step in range(1, 11):
        clock.now += 2.0
        report_progress("learning", step, 10)
    display.close()
    report_progress("learning", 1, 10)  # nobody listens
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "first iteration · collecting 5/50, 0:01:30 left of it"
    assert lines[1] == "first iteration · collecting 10/50, 0:01:20 left of it" and len(lines) == 13
    assert lines[-1].startswith("100/1,000 · ") and lines[-1].endswith(" · learning 10/10, 0:00:00 left of it")


def test_short_iteration_shows_no_progress(capsys, clock):
    display = Display(1000, every_s=10.0)
    display.open()
    for iteration in range(1, 5):
        for step in range(1, 11):
            clock.now += 0.5
            report_progress("collecting", step, 10)
        display.update(10 * iteration, {"rollout/success": 0.5})
    display.close()
    assert "collecting" not in capsys.readouterr().out
