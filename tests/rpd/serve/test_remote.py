"""A teacher behind a server is the teacher; trouble on the way is retried, and then named."""

import base64
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.specs import ObsSpec
from rpd.serve.peer import Limits
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.residual import ResidualActorCritic
from rpd.teachers import registry
from rpd.teachers.adapters import remote
from rpd.teachers.adapters.student import outside_base
from rpd.teachers.base import CameraRequest
from rpd.teachers.transport import shared_memory
from rpd.teachers.transport.client import Client

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("RPD_SERVE_TOKEN", raising=False)


@pytest.fixture
def naps(monkeypatch):
    """What the client would sleep before it asks again."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_remote_teacher_equals_local_teacher(serving, oracle, toy_spec, toy_obs):
    server, local = serving(), oracle()
    remote = registry.make(f"remote:{server.url}", toy_spec())
    assert remote.name == f"remote:{server.url}" and remote.output_fields == local.output_fields
    assert torch.equal(remote.bin_edges, local.bin_edges)
    remote.seed(3), local.seed(3)
    for n in (1, 4, 3):
        obs, words, action = toy_obs(n), ["go"] * n, torch.randn(n, 3)
        expected = local.label(obs, words, action).tensors()
        got = remote.label(obs, words, action).tensors()
        assert got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in got)
        remote.reset(torch.ones(n, dtype=torch.bool))
        assert torch.equal(remote.act(obs, words), local.act(obs, words))
    assert remote.label(toy_obs(2), ["a", "b"]).log_prob is None
    remote.reset(torch.tensor([True, False, True]))
    assert server.teacher.resets[-1] == [True, False, True]
    got["mean"].add_(1)  # tensors of its own
    remote.client.close()


def test_only_requested_fields_are_sent(serving, oracle, toy_spec, toy_obs):
    server = serving()
    remote, obs, action = registry.make(f"remote:{server.url}", toy_spec()), toy_obs(2), torch.zeros(2, 3)
    remote.requested_fields = frozenset({"log_prob"})
    answer = remote.label(obs, ["a", "b"], action).tensors()
    assert answer.keys() == {"mean", "valid", "log_prob"} and server.teacher.asked[-1][1] == {"log_prob"}
    assert torch.equal(answer["log_prob"], oracle().label(obs, ["a", "b"], action).log_prob)
    other = registry.make(f"remote:{server.url}", toy_spec())  # another client wants everything
    assert other.label(obs, ["a", "b"], action).tensors().keys() == {*oracle.output_fields, "valid"}
    remote.client.close(), other.client.close()


def test_refuses_another_environment_on_both_sides(serving, toy_spec):
    url = serving().url
    with pytest.raises(SpecMismatch, match=rf"'remote:{url}', which serves oracle: .*policy \(toy/Toy\) has 20 Hz; .*has 5 Hz"):
        registry.make(f"remote:{url}", toy_spec(control_hz=5))
    with pytest.raises(SpecMismatch, match="answers: oracle cannot do toy/Other"):  # the teacher's own reason
        registry.make(f"remote:{url}", toy_spec("toy/Other"))
    registry.make(f"remote:{url}", toy_spec("toy/Third")).client.close()


def test_remote_teacher_with_own_cameras(serving, oracle, toy_spec, toy_obs):
    """It is shown images of any camera and size; what the student sees matters no more than in one process."""

    class Looker(oracle):
        needs_teacher_images = True

        def __init__(self):
            super().__init__()
            self.shown = []

        def label(self, obs, instructions, student_action=None):
            self.shown.append(obs)
            if "view.top" not in obs.keys():  # noqa: SIM118
                raise ConfigError("looker looks through camera 'top'")
            return super().label(toy_obs(len(instructions)), instructions, student_action)

    server, spec, n = serving(Looker()), toy_spec(), 3
    state = {"state": ObsSpec(shape=(5,), dtype="float32")}
    other = spec.model_copy(update={"observations": state, "state_names": tuple("abcde")})
    top = torch.randint(0, 256, (n, 128, 96, 3), dtype=torch.uint8)
    for seen, obs, keys in (
        (spec, toy_obs(n), {"state", "image.front", "view.top"}),
        (other, TensorDict({"state": torch.zeros(n, 5)}, [n]), {"view.top"}),
    ):
        remote = registry.make(f"remote:{server.url}", seen)
        assert remote.needs_teacher_images and not registry.make(f"remote:{serving().url}", spec).needs_teacher_images
        obs["view.top"] = top
        assert torch.equal(remote.label(obs, ["a"] * n).mean, oracle().label(toy_obs(n), ["a"] * n).mean)
        shown = server.teacher.shown[-1]
        assert set(shown.keys()) == keys and torch.equal(shown["view.top"], top)
        with pytest.raises(ServerLost, match="answers: looker looks through camera 'top'"):
            remote.act(obs.exclude("view.top"), ["a"] * n)
        with pytest.raises(ServerLost, match=r"view.top: \[3, 224, 224, 3\] uint8 is expected, not \[3, 128, 96\] uint8"):
            remote.act(obs.replace({"view.top": top[..., 0]}), ["a"] * n)
    with pytest.raises(SpecMismatch, match="control rate"):
        registry.make(f"remote:{server.url}", toy_spec(control_hz=5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("remote", "needs the address of a policy server, e.g. remote:ws://127.0.0.1:8000"),
        ("remote:localhost:8000", "'localhost:8000': write its address as ws://host:port"),
        ("remote:ws://", "no policy server at ws:// "),
        ("remote:ws://127.0.0.1:99999", "no policy server at ws://127.0.0.1:99999"),
        ("remote:ws://127.0.0.1:1,timeout=0", "timeout=0: .*above 0"),
        ("remote:ws://127.0.0.1:1,retries=-1", "retries=-1: .*minimum 0"),
        ("remote:ws://127.0.0.1:1,tokenfile=x", "'tokenfile': did you mean token_file"),
        ("remote:ws://127.0.0.1:1,token_file=/none", "token file /none: No such file"),
        ("remote:ws://127.0.0.1:1", "no policy server at ws://127.0.0.1:1 .*refused.*: start one with `rpd serve`"),
    ],
)
def test_mistakes_are_one_line(name, message, toy_spec):
    with pytest.raises(ConfigError, match=message) as error:
        registry.make(name, toy_spec())
    assert "\n" not in str(error.value)


def test_only_teacher_cameras_are_sent(serving, oracle, toy_spec, toy_obs):
    """Of all images, only its cameras are sent: its own view before the student's."""

    class Looker(oracle):
        needs_teacher_images = True

        def __init__(self):
            super().__init__()
            self.shown = []

        def label(self, obs, instructions, student_action=None):
            self.shown.append(obs)
            return super().label(toy_obs(len(instructions)), instructions, student_action)

    request = CameraRequest(("front", "top"), 128)
    server = serving(Looker(), camera_request=request)
    name = f"remote:{server.url}"
    assert registry.camera_request(name) == request and registry.camera_request(f"remote:{serving().url}") == CameraRequest()
    remote, obs = registry.make(name, toy_spec()), toy_obs(1)
    obs["view.front"] = obs["view.side"] = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    obs["image.top"] = obs["image.front"]
    remote.label(obs, ["a"])
    assert set(server.teacher.shown[-1].keys()) == {"state", "view.front", "image.top"}
    remote.client.close()


def test_options_of_openpi_do_nothing_here(serving, toy_spec):
    with pytest.raises(ConfigError, match="state only apply to openpi's servers"):
        registry.make(f"remote:{serving().url},state=x", toy_spec())


def test_the_token(serving, toy_spec, tmp_path, monkeypatch):
    url = serving(token="s3cret").url
    with pytest.raises(ConfigError, match="a token is required: add token_file=FILE, or set RPD_SERVE_TOKEN"):
        registry.make(f"remote:{url}", toy_spec())
    (tmp_path / "token").write_text("s3cret\n")
    registry.make(f"remote:{url},token_file={tmp_path / 'token'}", toy_spec()).client.close()
    monkeypatch.setenv("RPD_SERVE_TOKEN", "other")
    with pytest.raises(ConfigError, match="the token is not accepted"):
        registry.make(f"remote:{url}", toy_spec())
    monkeypatch.setenv("RPD_SERVE_TOKEN", "s3cret")
    registry.make(f"remote:{url}", toy_spec()).client.close()
    monkeypatch.setenv("RPD_SERVE_TOKEN", " ")
    with pytest.raises(ConfigError, match="RPD_SERVE_TOKEN: a token is one word"):
        registry.make(f"remote:{url}", toy_spec())


def test_server_that_only_a_policy_names_gets_no_token(serving, toy_spec, tmp_path, monkeypatch):
    """Whoever hands out a policy does not get the tokens of those who try it."""
    open_server, closed = serving(), serving(token="s3cret")
    sent = []
    monkeypatch.setenv("RPD_SERVE_TOKEN", "s3cret")
    monkeypatch.setattr(remote, "Client", lambda *args, **options: sent.append(args[1]) or Client(*args, **options))
    spec = toy_spec()

    def corrects(url):
        policy = ResidualActorCritic(spec, StudentConfig(hidden_dims=(8,)), ResidualConfig(), f"remote:{url}")
        policy.save_pretrained(tmp_path / "policy")
        return policy

    def used(policy, named=None):
        sent.clear()
        teachers = [outside_base(policy, spec, torch.device("cpu"), named)]
        if named is None:
            registry.identity(tmp_path / "policy")
            teachers.append(registry.make(str(tmp_path / "policy"), spec).base)
        for teacher in teachers:
            teacher.close()
        assert len(sent) >= 2 * len(teachers)
        return set(sent)

    policy = corrects(open_server.url)
    assert used(policy) == {None} and used(policy, f"remote:{open_server.url}") == {"s3cret"}
    policy = corrects(closed.url)
    with pytest.raises(
        ConfigError, match=f"a token is required: a policy names this server: set RPD_SERVE_TOKEN_FOR={closed.url}"
    ):
        used(policy)
    assert used(policy, f"remote:{closed.url}") == {"s3cret"}
    monkeypatch.setenv("RPD_SERVE_TOKEN_FOR", f"ws://other:1, {closed.url}")
    assert used(policy) == {"s3cret"}


def test_connects_again(serving, oracle, toy_spec, toy_obs, naps, monkeypatch, capsys):
    server = serving()
    remote, obs = registry.make(f"remote:{server.url},retries=3", toy_spec()), toy_obs(2)
    server.stop()
    monkeypatch.setattr(time, "sleep", lambda s: (naps.append(s), len(naps) == 2 and serving(port=server.port)))
    assert torch.equal(remote.label(obs, ["a", "b"]).mean, oracle().label(obs, ["a", "b"]).mean)
    assert naps == [0.5, 1.0]
    said = capsys.readouterr().err.splitlines()
    assert said.pop().endswith("connected again; its memory of the running episodes is lost")
    assert len(said) == 2 and said[1].startswith(f"policy server {server.url}: ") and said[1].endswith("retry 2 of 3 in 1 s")
    remote.client.close()


def test_stops_after_the_last_retry(serving, toy_spec, toy_obs, naps):
    server = serving()
    remote = registry.make(f"remote:{server.url}", toy_spec())
    server.stop()
    with pytest.raises(ServerLost, match=rf"{server.url}: no answer after 5 retries \(.*refused.*\)"):
        remote.label(toy_obs(1), ["a"])
    assert naps == [0.5, 1, 2, 4, 8]


def test_request_times_out(serving, oracle, toy_spec, toy_obs, naps):
    class Slow(oracle):
        def label(self, *args):
            threading.Event().wait(0.5)
            return super().label(*args)

    remote = registry.make(f"remote:{serving(Slow()).url},timeout=0.1,retries=1", toy_spec())
    with pytest.raises(ServerLost, match=r"no answer after 1 retries \(no answer in 0.1 s\)"):
        remote.label(toy_obs(1), ["a"])


def test_server_that_stops_reading():
    """Frozen after the handshake: a request larger than the socket's buffers is not waited for either."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def freeze():
            connection, _ = listener.accept()
            with connection:
                key = re.search(rb"Sec-WebSocket-Key: (\S+)", connection.recv(4096))[1]
                accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
                upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                connection.sendall(upgrade + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + b"\x82\x01\x80")  # {}
                done.wait(10)

        done = threading.Event()
        thread = threading.Thread(target=freeze)
        thread.start()
        client = Client(f"ws://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5, retries=0)
        assert client.metadata == {}
        with pytest.raises(ServerLost, match="no answer after 0 retries"):
            client.request({"image": np.zeros(2**25, np.uint8)})
        done.set()
        thread.join()


def test_policy_that_fails_is_not_asked_again(serving, toy_spec, toy_obs, naps):
    remote = registry.make(f"remote:{serving().url}", toy_spec())
    with pytest.raises(ServerLost, match=r"answers: oracle failed: RuntimeError: the policy is out of order$"):
        remote.label(toy_obs(1), ["fail"])
    assert naps == []
    remote.client.close()


@pytest.mark.parametrize("changed", ["name", "spec", "bins"])
def test_another_policy_after_a_restart(changed, serving, oracle, toy_spec, toy_obs, naps):
    server = serving()
    remote = registry.make(f"remote:{server.url}", toy_spec())
    server.stop()
    teacher = oracle()
    if changed == "bins":
        teacher.bin_edges = 2 * teacher.bin_edges
    spec = toy_spec(reward="dense") if changed == "spec" else toy_spec()
    serving(teacher, spec, port=server.port, name="pythia" if changed == "name" else "oracle")
    with pytest.raises(
        ServerLost, match=f"it now serves {'pythia' if changed == 'name' else 'oracle'}, and not oracle as before"
    ):
        remote.label(toy_obs(1), ["a"])


def test_answers_of_another_shape(serving, oracle, toy_spec, toy_obs):
    class Wrong(oracle):
        def label(self, *args):
            answer = super().label(*args)
            setattr(answer, field, getattr(answer, field)[:, :2].contiguous() if field != "valid" else answer.mean)
            return answer

    remote = registry.make(f"remote:{serving(Wrong()).url}", toy_spec())
    for field in ("mean", "std", "bin_logits", "valid"):
        with pytest.raises(ServerLost, match=f"{field} of another shape or dtype"):
            remote.label(toy_obs(3), ["a"] * 3)
    remote.client.close()


def test_too_large_a_question(serving, toy_spec, toy_obs, naps):
    remote = registry.make(f"remote:{serving(limits=Limits(message_bytes=10_000)).url}", toy_spec())
    remote.client._shares = False
    with pytest.raises(ServerLost, match=r"a request of 27,\d+ bytes, and it takes 10,000: .* --max-message-mb"):
        remote.label(toy_obs(1), ["a"])
    assert naps == []
    remote.client.close()


def test_answer_after_interrupt_is_discarded(serving, toy_spec, toy_obs, oracle, monkeypatch):
    """Ctrl-C while waiting: the next question must not get the answer to this one."""
    remote = registry.make(f"remote:{serving().url}", toy_spec())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote.client, "_receive", lambda arena: (_ for _ in ()).throw(KeyboardInterrupt))
        remote.label(toy_obs(1), ["a"])
    assert torch.equal(remote.label(toy_obs(2), ["a", "b"]).mean, oracle().label(toy_obs(2), ["a", "b"]).mean)
    remote.client.close()


needs_shm = pytest.mark.skipif(not shared_memory.available(), reason="needs /dev/shm")


def blocks():
    return {name for name in os.listdir(shared_memory.FOLDER) if name.startswith("rpd-")}


@needs_shm
def test_no_block_keeps_its_name(serving, toy_obs):
    server, before = serving(), blocks()
    client = Client(server.url)
    for n in (1, 30, 2):  # the second needs a larger one
        arrays = {k: v.numpy() for k, v in toy_obs(n).items()}
        client.request({"request": "label", "obs": arrays, "instructions": ["a"] * n})
        assert client._block is not None and blocks() == before
    server.stop()
    client.close()
    assert blocks() == before


@needs_shm
@pytest.mark.parametrize("when", ["the server cannot see it", "there is no memory left"])
def test_without_shared_memory_arrays_are_sent(when, serving, toy_obs, oracle, monkeypatch):
    client, before = Client(serving().url), blocks()
    if when == "there is no memory left":
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        monkeypatch.setattr(
            shared_memory.PeerBlock, "__init__", lambda *_: (_ for _ in ()).throw(ValueError("another container"))
        )
    obs = toy_obs(4)
    asked = {"request": "label", "obs": {k: v.numpy() for k, v in obs.items()}, "instructions": ["a"] * 4}
    for _ in range(2):
        assert (client.request(asked)["mean"] == oracle().label(obs, ["a"] * 4).mean.numpy()).all()
    assert client._block is None and blocks() == before
    client.close()


@needs_shm
def test_killed_client_leaves_nothing(serving, toy_obs):
    server, before = serving(), blocks()
    code = f"""
import os, signal, sys
import numpy as np
from rpd.teachers.transport.client import Client
client = Client({server.url!r})
client.request({{"state": np.zeros(2), "image.front": np.zeros((96, 96, 3), np.uint8), "prompt": "a"}})
print(client._block.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == -9 and result.stdout.startswith("rpd-")
    assert blocks() == before and result.stderr == ""
    Client(server.url).close()
