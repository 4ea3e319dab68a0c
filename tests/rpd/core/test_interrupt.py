import os
import signal

import pytest

from rpd.cli.main import main
from rpd.core.interrupt import Interrupt
from rpd.runs import checkpoint
from rpd.runs.tracker import Tracker
from rpd.training.on_policy import OnPolicyTrainer


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_saves_second_stops(signum, capfd):
    before = signal.getsignal(signum)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), signum)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) == before
    assert capfd.readouterr().err.strip() == "stopping after this iteration, with a checkpoint (again: stop at once)"


@pytest.fixture
def at_first_log(monkeypatch):
    """Send this process signals, once, when the first metrics are logged."""

    def send(*once):
        signals = list(once)
        log = Tracker.log

        def logged(self, step, metrics):
            log(self, step, metrics)
            while signals:
                os.kill(os.getpid(), signals.pop(0))

        monkeypatch.setattr(Tracker, "log", logged)

    return send


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_prints_resume_command_and_exits_130(signum, at_first_log, arguments, tmp_path, capsys):
    at_first_log(signum)
    args = arguments(save_freq=1000)
    assert main([*args, "--runs-dir", str(tmp_path), "--name", "x"]) == 130
    assert f"stopped at 32 steps, to continue: rpd train --resume {tmp_path / 'x'}" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "x" / "checkpoints" / "last").step == 32
    assert not (tmp_path / "x" / "result.json").exists()


def test_second_signal_stops_at_once(at_first_log, arguments, tmp_path, capsys):
    at_first_log(signal.SIGTERM, signal.SIGINT)
    assert main([*arguments(save_freq=1000), "--runs-dir", str(tmp_path), "--name", "x"]) == 130
    out, err = capsys.readouterr()
    assert f"rpd train --resume {tmp_path / 'x'}" in out and err.endswith("rpd train: interrupted\n")
    assert not (tmp_path / "x" / "checkpoints").exists()
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0  # from the start
    assert "before its first checkpoint" in capsys.readouterr().out


def test_while_the_teacher_is_measured(arguments, tmp_path, monkeypatch, capsys):
    """Nothing was learned yet, but the teacher need not be measured again."""
    measure, calls = OnPolicyTrainer._evaluate_teacher, []

    def measured(self):
        calls.append(self.teacher_result is None)
        os.kill(os.getpid(), signal.SIGTERM)
        measure(self)

    with monkeypatch.context() as patch:
        patch.setattr(OnPolicyTrainer, "_evaluate_teacher", measured)
        assert main([*arguments(), "--runs-dir", str(tmp_path), "--name", "x"]) == 130
        assert "stopped at 0 steps" in capsys.readouterr().out
        assert main(["train", "--resume", str(tmp_path / "x")]) == 130
    assert calls == [True, False]
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0
