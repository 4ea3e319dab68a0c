"""The server on the wire: openpi's protocol byte by byte, several clients, and everything that it refuses."""

import random
import socket
import threading
import time
import urllib.request

import msgpack
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rpd.serve.peer import Limits, RateLimiter
from rpd.teachers.transport.client import Client
from rpd.teachers.transport.codec import decode, encode

# What an openpi client sends and reads, without any code of ours.


def by_hand(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def read_by_hand(data):
    def array(fields):
        if b"__ndarray__" not in fields:
            return fields
        return np.ndarray(buffer=fields[b"data"], dtype=np.dtype(fields[b"dtype"]), shape=fields[b"shape"])

    return msgpack.unpackb(data, object_hook=array)


def observation(obs, i=None):
    rows = {k: v.numpy() if i is None else v[i].numpy() for k, v in obs.items()}
    return {**rows, "prompt": "go" if i is not None else ["go"] * len(obs)}


def test_openpi_client(serving, oracle, toy_obs):
    obs = toy_obs(3)
    with connect(serving().url, compression=None, max_size=None) as socket_:
        metadata = read_by_hand(socket_.recv())
        assert metadata["name"] == "oracle" and metadata["spec"]["action"]["names"] == ["x", "y", "g"]
        expected = oracle().act(obs, ["go"] * 3).numpy()
        for i in range(3):
            fields = {k: by_hand(v) if isinstance(v, np.ndarray) else v for k, v in observation(obs, i).items()}
            socket_.send(msgpack.packb(fields))
            answer = read_by_hand(socket_.recv())
            assert answer["actions"].dtype == np.float32 and (answer["actions"] == expected[i : i + 1]).all()
            timing = answer["server_timing"]
            assert timing["infer_ms"] > 0 and ("prev_total_ms" in timing) == (i > 0)
        fields["state"] = by_hand(np.float64([0, 0]))  # numpy's default
        socket_.send(msgpack.packb(fields))
        assert read_by_hand(socket_.recv())["actions"].shape == (1, 3)


def test_a_batch(serving, oracle, toy_obs):
    client, obs = Client(serving().url), toy_obs(5)
    answer = client.request(observation(obs))
    assert (answer["actions"] == oracle().act(obs, ["go"] * 5).numpy()[:, None]).all()
    client.close()


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("n", [1, 16])
def test_labels_have_every_field_bit_for_bit(share, n, serving, oracle, toy_obs):
    client, local = Client(serving().url, share=share), oracle()
    for turn in range(3):
        obs, words, action = toy_obs(n + turn), ["a" * i for i in range(n + turn)], torch.randn(n + turn, 3)
        arrays = {k: v.numpy() for k, v in obs.items()}
        asked = {"request": "label", "obs": arrays, "instructions": words, "student_action": action.numpy()}
        answer = client.request(asked)
        expected = local.label(obs, words, action).tensors()
        assert answer.keys() == {*expected, "server_timing"} and len(expected) == 6
        for name, tensor in expected.items():
            assert answer[name].dtype == tensor.numpy().dtype and (answer[name] == tensor.numpy()).all(), name
    assert (client._block is not None) == share
    client.close()


def test_metadata(serving, oracle, toy_spec):
    spec = toy_spec(scene=True)
    client = Client(serving(spec=spec, limits=Limits(message_bytes=2**20, rate=50)).url)
    metadata = client.metadata
    assert type(spec).model_validate(metadata["spec"]) == spec
    assert metadata["protocol"] == "rpd/4" and metadata["remembers"] is True and metadata["shared_memory"] is True
    assert metadata["output_fields"] == sorted(oracle.output_fields)
    assert (metadata["bin_edges"] == oracle.bin_edges.numpy()).all()
    assert metadata["observations"] == ["state", "image.front"] and metadata["optional"] == ["privileged"]
    assert metadata["limits"] == {"message_bytes": 2**20, "requests_per_second": 50, "rows": 1024}
    client.close()


def test_reset_and_seed(serving, oracle, toy_obs):
    server = serving()
    client, obs, local = Client(server.url), toy_obs(2), oracle()
    asked = {"request": "label", "obs": {k: v.numpy() for k, v in obs.items()}, "instructions": ["a", "b"]}
    for seed in (7, 8, 7):
        client.request({"request": "seed", "seed": seed})
        local.seed(seed)
        assert (client.request(asked)["samples"] == local.label(obs, ["a", "b"]).samples.numpy()).all()
    client.request({"request": "reset", "mask": np.array([True, False])})
    assert server.teacher.resets == [[True, False]]
    client.close()


def test_several_clients_at_once(serving, oracle, toy_obs):
    """The oracle asserts that it is asked one thing at a time."""
    server, wrong = serving(), []

    def ask(number):
        client = Client(server.url, share=number % 2 == 0)
        for turn in range(10):
            obs, words = toy_obs(1 + (number + turn) % 4), ["x" * number] * (1 + (number + turn) % 4)
            arrays = {k: v.numpy() for k, v in obs.items()}
            answer = client.request({"request": "label", "obs": arrays, "instructions": words})
            if not (answer["mean"] == oracle().label(obs, words).mean.numpy()).all():
                wrong.append((number, turn))
        client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.stop()
    assert wrong == [] and server.status.requests >= 60
    assert server.status.line().startswith(f"0 clients · {server.status.requests} requests · latency p50 ")


def test_health_while_the_policy_computes(serving, oracle, toy_obs):
    computing, done = threading.Event(), threading.Event()

    class Slow(oracle):
        def label(self, *args):
            computing.set()
            assert done.wait(10)
            return super().label(*args)

    server = serving(Slow())
    client = Client(server.url)
    thread = threading.Thread(target=client.request, args=(observation(toy_obs(1)),))
    thread.start()
    assert computing.wait(10)
    with urllib.request.urlopen(server.url.replace("ws", "http") + "/healthz") as answer:
        assert answer.status == 200 and answer.read() == b"OK\n"
    with connect(server.url) as other:
        other.ping().wait(10)
    done.set()
    thread.join()
    client.close()


def refusal(url, **options):
    with pytest.raises(InvalidStatus) as error, connect(url, **options):
        pass
    return error.value.response.status_code


def test_a_token(serving, toy_obs):
    server = serving(token="s3cret")
    for header in (None, "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer s\xe9"):
        headers = {} if header is None else {"Authorization": header}
        assert refusal(server.url, additional_headers=headers) == 401
    assert refusal(server.url, additional_headers=[("Authorization", "Bearer s3cret")] * 2) == 401
    for scheme in ("Bearer", "bearer", "Api-Key"):  # the last is what openpi's client sends
        with connect(server.url, additional_headers={"Authorization": f"{scheme} s3cret"}) as socket_:
            assert isinstance(socket_.recv(), bytes)
    with urllib.request.urlopen(server.url.replace("ws", "http") + "/healthz") as answer:
        assert answer.status == 200
    assert server.status.refused == 9


def test_browsers_are_not_let_in(serving):
    """A page on any web site could otherwise use a policy on the visitor's machine."""
    assert refusal(serving().url, origin="https://example.org") == 403


def test_too_many_clients(serving):
    server = serving(limits=Limits(clients=1))
    with connect(server.url) as first:
        first.recv()
        assert refusal(server.url) == 503


def still_serves(server, toy_obs):
    client = Client(server.url)
    assert client.request(observation(toy_obs(1)))["actions"].shape == (1, 1, 3)
    client.close()


def test_too_large_a_message(serving, toy_obs):
    server = serving(limits=Limits(message_bytes=100_000))
    with connect(server.url) as socket_:
        socket_.recv()
        with pytest.raises(ConnectionClosed) as error:
            socket_.send(b"x" * 100_001)
            socket_.recv()
        assert error.value.rcvd.code == 1009
    still_serves(server, toy_obs)


def change(**fields):
    return lambda message: {k: v for k, v in {**message, **fields}.items() if v is not None}


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (change(state=None), "observation 'state' is missing; expected: state, image.front"),
        (change(stat=np.zeros(2)), "unknown observation 'stat': did you mean state?"),
        (change(state=np.zeros(3)), "state: [1, 2] float32 is expected, not [1, 3] float64"),
        (change(state=[0, 0]), "state: [1, 2] float32 is expected, not list"),
        (change(**{"image.front": np.zeros((96, 96, 3), np.float32)}), "image.front: [1, 96, 96, 3] uint8 is expected, not"),
        (change(**{"image.front": np.zeros((1, 96, 96, 3), np.uint8)}), "uint8 is expected, not [1, 1, 96, 96, 3] uint8"),
        (change(prompt=3), "instructions: one string per observation"),
        (change(prompt="x" * 5000), "instructions: one string per observation, of at most 4096 characters"),
        (change(prompt=[]), "instructions: one string per observation"),
        (change(prompt=["a", "b"]), "state: [2, 2] float32 is expected, not [2] float32"),
        (change(prompt="fail"), "oracle failed: RuntimeError: the policy is out of order"),
        (lambda _: {"request": "labl"}, "unknown request 'labl': did you mean label?"),
        (lambda _: {"request": {}}, "unknown request '{}': "),
        (lambda _: {"request": "label"}, "request 'label': 'obs' is missing"),
        (lambda m: {"request": "label", "obs": 1, "instructions": ["a"]}, "obs: a map of arrays"),
        (lambda m: {"request": "label", "obs": {}, "instructions": ["a"], "x": 1}, "unknown field of request 'label' 'x'"),
        (lambda _: {"request": "reset", "mask": np.zeros(3)}, "mask: an array [N] of bools"),
        (lambda _: {"request": "seed", "seed": -1}, "seed: a number from 0"),
        (lambda _: {"request": "check", "spec": {"task": 1}}, "spec: task: Input should be a valid string"),
        (lambda _: {"request": "memory", "name": "x"}, "memory: a name, and a size"),
        (lambda _: {"request": "memory", "name": "../x", "size": 64}, "memory: a block's name is"),
        (lambda _: {"request": "memory", "name": "rpd-" + "0" * 32, "size": 2**40}, "memory: a name, and a size"),
        (lambda _: {"request": "memory", "name": "rpd-" + "0" * 32, "size": 64}, "memory: the block cannot be opened here"),
    ],
)
def test_malformed_requests_get_an_error_reply(alter, text, serving, toy_obs):
    with connect(serving().url) as socket_:
        socket_.recv()
        good = {k: v.numpy()[0] for k, v in toy_obs(1).items()} | {"prompt": "go"}
        socket_.send(encode(alter(good)))
        answer = socket_.recv()
        assert isinstance(answer, str) and text in answer and "\n" not in answer
        socket_.send(encode(good))  # and the connection stays
        assert decode(socket_.recv())["actions"].shape == (1, 3)


def test_thousand_malformed_messages(serving, toy_obs):
    """Requests with bytes changed, lost and added, and random ones: each gets an answer, and the server goes on."""
    server, rng = serving(), random.Random(0)
    obs = {k: v.numpy() for k, v in toy_obs(1).items()}
    good = [
        encode({**{k: v[0] for k, v in obs.items() if k == "state"}, "prompt": "go"}),
        encode({"request": "label", "obs": {"state": obs["state"]}, "instructions": ["go"]}),
        encode({"request": "reset", "mask": np.array([True])}),
        encode({"request": "memory", "name": "rpd-" + "0" * 32, "size": 64}),
        encode({"request": "seed", "seed": 1}),
    ]
    answers = {str: 0, bytes: 0}
    with connect(server.url) as socket_:
        socket_.recv()
        for turn in range(1000):
            data = bytearray(rng.choice(good) if turn % 4 else rng.randbytes(rng.randrange(200)))
            for _ in range(rng.randint(1, 3) if data else 0):
                at = rng.randrange(len(data))
                data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
            socket_.send("text" if turn % 100 == 0 else bytes(data))
            answers[type(socket_.recv(10))] += 1
    assert answers[str] > 900 and sum(answers.values()) == 1000
    still_serves(server, toy_obs)
    assert server.status.refused == answers[str]


def test_garbage_instead_of_a_handshake(serving, toy_obs):
    server = serving()
    for data in (b"\x00" * 100, b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"G" * 10_000):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    still_serves(server, toy_obs)


def test_client_that_leaves_in_the_middle(serving, oracle, toy_obs):
    computing, done = threading.Event(), threading.Event()

    class Slow(oracle):
        def label(self, *args):
            computing.set()
            assert done.wait(10)
            return super().label(*args)

    server = serving(Slow())
    with connect(server.url) as socket_:
        socket_.recv()
        good = {k: v.numpy()[0] for k, v in toy_obs(1).items()} | {"prompt": "go"}
        socket_.send(encode(good))
        assert computing.wait(10)
        socket_.socket.shutdown(socket.SHUT_RDWR)
    done.set()
    still_serves(server, toy_obs)


def test_stop_closes_connections_with_a_reason(serving):
    server = serving()
    with connect(server.url) as socket_:
        socket_.recv()
        server.stop()
        with pytest.raises(ConnectionClosed) as error:
            socket_.recv(10)
        assert error.value.rcvd.code == 1001


def test_pace(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pace = RateLimiter(10)
    assert [pace.wait() for _ in range(12)] == pytest.approx([0] * 10 + [0.1, 0.2])
    clock[0] = 0.2 + 0.5  # the two have waited
    assert [pace.wait() for _ in range(6)] == pytest.approx([0] * 5 + [0.1])
    clock[0] = 100
    assert [pace.wait() for _ in range(11)] == pytest.approx([0] * 10 + [0.1])


def test_rate_limit_delays_requests(serving, toy_obs):
    client = Client(serving(limits=Limits(rate=20)).url)
    began = time.monotonic()
    for _ in range(24):
        client.request({"request": "seed", "seed": 1})
    assert time.monotonic() - began >= 0.15  # 20 at once, four at 20 per second
    client.close()
