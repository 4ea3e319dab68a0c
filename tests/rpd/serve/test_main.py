"""`rpd serve` from its command line, and training with a teacher behind it."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import torch

from rpd.cli.main import main
from rpd.cli.options.train import train_options
from rpd.cli.serve import ServeConfig
from rpd.config.parser import parse
from rpd.envs.config import EnvConfig
from rpd.envs.registry import make
from rpd.policies.cameras import with_teacher_cameras
from rpd.runs import checkpoint
from rpd.serve.loading import load
from rpd.serve.status import Status
from rpd.teachers import registry
from rpd.teachers.adapters.remote_teacher import RemoteTeacher
from rpd.teachers.base import CameraRequest
from rpd.teachers.transport.client import Client

ROOT = Path(__file__).parents[3]
TEACHER = "scripted:noise=0.5"


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("RPD_SERVE_TOKEN", raising=False)


@pytest.fixture(scope="module")
def reach():
    env = make("tabletop/Reach", EnvConfig(num_envs=1), num_threads=1)
    yield env.spec
    env.close()


@pytest.fixture
def run(arguments, tmp_path):
    """A finished run."""
    assert main([*arguments(), "--runs-dir", str(tmp_path), "--name", "run"]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("serve", "rpd serve: missing STR: Policy reference: a run, a checkpoint or a policy folder; or a teacher"),
        ("serve scriptd --task tabletop/Reach", "unknown policy 'scriptd': did you mean scripted?"),
        ("serve zoo/tabletop", "rpd serve: zoo/tabletop: for which task? add --task"),
        ("serve scripted", "rpd serve: scripted: for which task? add --task, e.g. --task tabletop/PickCube"),
        ("serve scripted --task tabletop/Reech", "unknown task 'tabletop/Reech': did you mean tabletop/Reach"),
        ("serve scripted:noise=9 --task tabletop/Reach", "noise=9: Input should be less than or equal to 2"),
        ("serve scripted --task tabletop/Reach --robot pand", "unknown robot for tabletop/Reach 'pand': did you mean panda?"),
        ("serve scripted --task tabletop/Reach --obs-mode rgb --cameras fron", "'fron': did you mean front?"),
        ("serve scripted --task tabletop/Reach --image-size 64", "env.image_size does nothing with env.obs_mode state"),
        ("serve zero", "zero ignores observations and cannot be a teacher"),
        ("serve /none", "/none: does not exist: expected a run"),
        ("serve .", "expected a run with checkpoints"),
        ("serve . --task tabletop/Reach --robot panda", "was trained for: leave out --task, --robot"),
        (
            "serve scripted --host 0.0.0.0",
            "--host 0.0.0.0: others than this machine could use the policy: add --token-file FILE",
        ),
        ("serve scripted --host ::", "could use the policy"),
        ("serve scripted --token-file none", "token file none: No such file or directory"),
        ("serve scripted --max-rate 0", "--max-rate 0.0: Input should be greater than 0"),
        ("serve scripted --max-rows 8 --max-total-rows 4", "--max-total-rows 4 is less than one client may have: --max-rows 8"),
        ("serve scripted --port 70000", "--port 70000: Input should be less than or equal to 65535"),
        ("serve scripted --task tabletop/Reach --host 1.2.3.4 --token-file token", "cannot listen on 1.2.3.4:8000: "),
    ],
)
def test_mistakes_are_one_line(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text("x")
    assert main(args.split()) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


def test_port_in_use(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", TEACHER, "--task", "tabletop/Reach", "--port", port, "--num-threads", "1"]) == 2
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}: " in err and err.count("\n") == 1


def test_model_that_ships_is_served_by_its_name():
    teacher, spec, request = load(ServeConfig(policy="zoo/tabletop", task="tabletop/PickCube", device="cpu"))
    assert teacher.name == "zoo/tabletop" and spec.task == "tabletop/PickCube" and request.cameras == ("front",)


def test_served_run_uses_its_environment(run, serving, reach, toy_obs):
    teacher, spec, _ = load(ServeConfig(policy=str(run), device="cpu"))
    assert spec == reach.model_copy(update={"max_episode_steps": spec.max_episode_steps, "settings": spec.settings})
    assert load(ServeConfig(policy=str(run), device="cpu"))[1] == spec
    remote = registry.make(f"remote:{serving(teacher, spec).url}", reach)
    local = registry.make(str(run), reach)
    env = make("tabletop/Reach", EnvConfig(num_envs=3), num_threads=1)
    obs = env.reset(0)
    env.close()
    got, expected = remote.label(obs, ["a"] * 3).tensors(), local.label(obs, ["a"] * 3).tensors()
    assert got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got)
    remote.client.close()


def test_options_of_a_policy_are_not_ignored(run, capsys):
    assert main(["serve", f"{run},samples=3"]) == 2
    assert f"unknown option of teacher {run} 'samples': it has no options" in capsys.readouterr().err


def test_teacher_of_images():
    options = ServeConfig(
        policy="scripted", task="tabletop/Reach", obs_mode="rgb", cameras=("front",), image_size=32, robot="ur5e", num_threads=1
    )
    teacher, spec, request = load(options)
    assert request == CameraRequest()
    assert spec.observations["image.front"].shape == (32, 32, 3) and spec.embodiment.name == "ur5e"
    assert teacher.name == "scripted"


def test_documented_commands_run(serving):
    text = (ROOT / "docs" / "serving.md").read_text()
    shown = [shlex.split(line, comments=True) for line in "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()]
    for _, verb, *args in (words for words in shown if words[0] == "rpd"):
        train_options(args) if verb == "train" else parse(ServeConfig, args, verb)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(program.replace("ws://127.0.0.1:8000", serving().url), found := {})
    assert found["action"].shape == (3,)
    found["client"].close()


def test_a_vla(serving):
    """It is served, says which camera it looks through, and answers as it does here."""
    pytest.importorskip("transformers")
    name = f"openvla:{ROOT / 'tests/teachers/openvla/golden/checkpoint'},unnorm_key=tiny_bridge,action_mapping=metres"
    teacher, spec, request = load(ServeConfig(policy=name, task="tabletop/PickCube", device="cpu", num_threads=1))
    remote_name = f"remote:{serving(teacher, spec, camera_request=request).url}"
    assert registry.camera_request(remote_name) == request == registry.camera_request(name) and request.cameras
    env = make("tabletop/PickCube", with_teacher_cameras(EnvConfig(num_envs=2), remote_name), num_threads=1)
    remote, local = registry.make(remote_name, env.spec), registry.make(name, env.spec)
    obs = env.reset(0)
    obs.update(env.teacher_images())
    env.close()
    for wanted in (local.output_fields, frozenset({"log_prob"})):
        remote.requested_fields = local.requested_fields = wanted
        asked = obs, env.instructions, torch.zeros(2, 7)
        got, expected = remote.label(*asked).tensors(), local.label(*asked).tensors()
        assert got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got)
    assert torch.equal(remote.act(obs, env.instructions), local.act(obs, env.instructions))
    assert torch.equal(remote.bin_edges, local.bin_edges)
    remote.client.close()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_until_a_signal(signum, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = []

    def client():
        while not answers:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
                    answers.append(answer.read())
            except OSError:
                threading.Event().wait(0.05)
        one = Client(f"ws://127.0.0.1:{port}")
        one.request({"request": "seed", "seed": 1})
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=client)
    thread.start()
    assert main(["serve", TEACHER, "--task", "tabletop/Reach", "--port", str(port), "--num-threads", "1"]) == 0
    thread.join()
    out, err = capsys.readouterr()
    assert answers == [b"OK\n"] and err == ""
    assert f"serving {TEACHER} for tabletop/Reach (panda) on ws://127.0.0.1:{port}\n" in out
    assert re.search(r"\d clients? · 1 requests · latency p50 \d+\.\d ms, p95 \d+\.\d ms\n$", out)


def test_line_of_a_log_file(capsys):
    status = Status(every_s=0)
    status.clients, status.requests, status.refused = 2, 1234, 5
    status.latencies.extend([0.001] * 90 + [0.003] * 10)
    status.update()
    status.update()  # no news
    assert capsys.readouterr().out == "2 clients · 1,234 requests · 5 refused · latency p50 1.0 ms, p95 3.0 ms\n"


def test_remote_teacher_training_equals_local_training(arguments, tmp_path, serving, reach):
    url = serving(registry.make(TEACHER, reach), reach).url
    for name, teacher in (("here", TEACHER), ("there", f"remote:{url}")):
        assert main([*arguments(teacher=teacher), "--runs-dir", str(tmp_path), "--name", name]) == 0
    policies = [tmp_path / name / "checkpoints" / "last" / "policy" / "model.safetensors" for name in ("here", "there")]
    assert policies[0].read_bytes() == policies[1].read_bytes()


def test_server_that_is_killed_while_a_run_trains(arguments, tmp_path, serving, reach, monkeypatch, capsys):
    """Retried, then the run stops with all its iterations; it cannot resume without a server, and does with one."""
    command = [
        sys.executable,
        "-m",
        "rpd.cli.main",
        "serve",
        TEACHER,
        "--task",
        "tabletop/Reach",
        "--port",
        "0",
        "--num-threads",
        "1",
    ]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        label, asked = RemoteTeacher.label, []

        def labelled(self, *args):
            asked.append(1)
            if len(asked) == 20:  # in the third iteration
                server.kill()
                server.wait()
            return label(self, *args)

        options = arguments(teacher=f"remote:{url},retries=1", save_freq=1000, distill__schedule="constant")
        with monkeypatch.context() as patch:
            patch.setattr(RemoteTeacher, "label", labelled)
            assert main([*options, "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    out, err = capsys.readouterr()
    first, last = err.splitlines()
    assert first.startswith(f"policy server {url}: ") and first.endswith("retry 1 of 1 in 0.5 s")
    assert last.startswith(f"rpd train: policy server {url}: no answer after 1 retries (")
    assert f"to continue: rpd train --resume {tmp_path / 'x'}" in out
    assert checkpoint.load(tmp_path / "x" / "checkpoints" / "last").step == 64

    assert main(["train", "--resume", str(tmp_path / "x")]) == 2
    assert f"no policy server at {url} (" in capsys.readouterr().err
    serving(registry.make(TEACHER, reach), reach, port=int(url.rsplit(":")[-1]))
    assert main(["train", "--resume", str(tmp_path / "x")]) == 0
    assert "resuming" in capsys.readouterr().out


def test_exact_checkpoint_is_kept(arguments, tmp_path, serving, reach, monkeypatch):
    """A server that is lost right after a checkpoint does not replace it by one in the middle of a batch."""
    server = serving(registry.make(TEACHER, reach), reach)
    label, asked = RemoteTeacher.label, []

    def labelled(self, *args):
        asked.append(1)
        if len(asked) == 20:
            server.stop()
        return label(self, *args)

    monkeypatch.setattr(RemoteTeacher, "label", labelled)
    written, save = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda run, step, *args, **named: (written.append(step), save(run, step, *args, **named))
    )
    options = arguments(teacher=f"remote:{server.url},retries=0", distill__schedule="constant")
    assert main([*options, "--runs-dir", str(tmp_path), "--name", "x"]) == 1
    assert written == [32, 64]
