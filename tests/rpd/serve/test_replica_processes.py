"""`rpd serve --replicas N`: processes that start, restart and end together; training goes on when one of them is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rpd.cli.main import main
from rpd.core import children
from rpd.envs.errors import ConfigError, RunFault
from rpd.serve import replicas
from rpd.serve.replicas import RESTARTS, Replicas, _reachable, check_ports, devices
from rpd.teachers.adapters.remote_teacher import RemoteTeacher

ROOT = Path(__file__).parents[3]
TEACHER = "scripted:bias=0.02"
PATIENCE = 120  # s


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("RPD_SERVE_TOKEN", raising=False)


class Serving:
    """`rpd serve --replicas 2` in a process, and the lines that it prints."""

    def __init__(self):
        words = ["serve", TEACHER, "--task", "tabletop/Reach", "--port", "0", "--num-threads", "1", "--replicas", "2"]
        words += ["--device", "cpu"]
        self.process = subprocess.Popen([sys.executable, "-m", "rpd", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.lines, self.changed = [], threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                with self.changed:
                    self.lines.append(line.rstrip())
                    self.changed.notify_all()

    def wait_for(self, pattern):
        """Match of a line."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._found(pattern), PATIENCE), self.lines
            return self._found(pattern)[0]

    def _found(self, pattern):
        return [match for line in self.lines if (match := re.fullmatch(pattern, line))]

    def pid_of(self, index):
        """Process of a replica: the child with a port of this number in its command line, or the one without."""
        children_of = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children_of[index])


@pytest.fixture
def serving():
    server = Serving()
    yield server
    server.process.kill()
    server.process.wait()


def metrics(run):
    """Metrics of a run without times, step by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time")} for row in rows]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_replica_killed_during_training(serving, arguments, tmp_path, monkeypatch, capsys):
    """The run completes, and equals the run with one server; the killed server is started again; SIGTERM ends all."""
    ref = serving.wait_for(r"all 2 replicas are ready: (remote:ws://\S+,ws://\S+)")[1]
    first, second = ref.removeprefix("remote:").split(",")
    options = ["--runs-dir", str(tmp_path), "--name"]
    assert main([*arguments(teacher=f"remote:{first}", algorithm="rpd"), *options, "one"]) == 0
    label, asked = RemoteTeacher.label, []

    def labelled(self, *args):
        asked.append(self.client.url)
        if len(asked) == 20:
            os.kill(serving.pid_of(1), signal.SIGKILL)
        return label(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteTeacher, "label", labelled)
        assert main([*arguments(teacher=ref, algorithm="rpd"), *options, "two"]) == 0
    assert set(asked) == {first, second}
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one == two and any("teacher/queries" in row for row in one)
    lines = [line for line in capsys.readouterr().err.splitlines() if "dropped" in line]
    assert len(lines) == 1 and lines[0].startswith(f"policy server {second}: ")

    serving.wait_for(rf"replica 1 \({second}\) ended with signal SIGKILL: started again \(1 of 3 times within 60 s\)")
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(PATIENCE) == 0
    for url in (first, second):
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


@pytest.fixture
def short_lived(monkeypatch):
    """Replace the servers by processes that print some lines and end."""
    started = []

    def start(code):
        def started_as(words, log, own_session):
            started.append(list(words))
            return subprocess.Popen([sys.executable, "-c", code], stdout=log, start_new_session=own_session)

        monkeypatch.setattr(children, "start", started_as)
        return started

    return start


READY = "print('serving x for y on ws://127.0.0.1:'"


def test_replica_that_ends_again_and_again(short_lived, tmp_path, capsys):
    flag = tmp_path / "all are ready"
    started = short_lived(
        f"import pathlib, time; {READY} '1234', flush=True)\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.01)"
    )
    servers = Replicas([["serve", "x", "--port", "0"], ["serve", "x", "--port", "0", "--device", "cpu"]])

    def end_them():
        while not servers._is_announced:
            threading.Event().wait(0.01)
        flag.touch()

    thread = threading.Thread(target=end_them, daemon=True)
    thread.start()
    with pytest.raises(
        RunFault, match=r"replica \d \(ws://127.0.0.1:1234\) ended with exit code 0, for the 4th time within 60 s"
    ):
        servers.run()
    restarted = [words for words in started if words[-2:] == ["--port", "1234"]]
    assert len(restarted) >= RESTARTS and all(words.count("--port") == 1 for words in started)
    out = capsys.readouterr().out
    assert "all 2 replicas are ready: remote:ws://127.0.0.1:1234,ws://127.0.0.1:1234\n" in out
    assert "started again (3 of 3 times within 60 s)" in out


def test_bad_input_is_reported_once(short_lived, capfd):
    started = short_lived("import sys; print('rpd serve: unknown policy', file=sys.stderr); sys.exit(2)")
    assert Replicas([["serve", "x"], ["serve", "x"], ["serve", "x"]]).run() == 2
    assert len(started) == 1 and capfd.readouterr().err == "rpd serve: unknown policy\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all(short_lived, signum):
    """Also servers that still load."""
    short_lived(
        f"import os, signal, time; {READY} + str(os.getpid()), flush=True); os.kill({os.getpid()}, {signum}); time.sleep(60)"
    )
    handler = signal.getsignal(signum)
    assert Replicas([["serve", "x"], ["serve", "x"]]).run() == 0
    assert signal.getsignal(signum) is handler


def test_ports(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = port - 1
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:({first}|{port}): Address already in use"):
            check_ports("127.0.0.1", first, 2)
    check_ports("127.0.0.1", 0, 2)
    for words, message in (
        (("--port", "65534", "--replicas", "3"), "--port 65534 with --replicas 3: ports end at 65535: at most --port 65533"),
        (("--replicas", "0"), "--replicas 0: Input should be greater than or equal to 1"),
        (("--host", "0.0.0.0", "--replicas", "2"), "add --token-file FILE"),
    ):
        assert main(["serve", TEACHER, "--task", "tabletop/Reach", *words]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


def test_devices(monkeypatch, capsys):
    assert devices("cpu", 2) == ["cpu"] * 2 and devices("cuda:1", 2) == ["cuda:1"] * 2
    monkeypatch.setattr(replicas, "_gpus", lambda: 0)
    assert devices("auto", 3) == ["auto"] * 3
    monkeypatch.setattr(replicas, "_gpus", lambda: 2)
    assert devices("auto", 2) == ["cuda:0", "cuda:1"]
    assert capsys.readouterr().out == ""
    assert devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert capsys.readouterr().out == "3 replicas share 2 GPUs\n"


def test_address_of_a_server_that_listens_everywhere():
    name = socket.gethostname()
    assert _reachable("ws://0.0.0.0:8000") == f"ws://{name}:8000" and _reachable("ws://[::]:1") == f"ws://{name}:1"
    assert _reachable("ws://[::1]:8000") == "ws://[::1]:8000"
