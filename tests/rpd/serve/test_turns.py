"""One client's request does not hold the others up: it is bounded, and computed in turns."""

import threading
import time

import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rpd.envs.errors import ServerLost
from rpd.serve.peer import Limits
from rpd.teachers import registry
from rpd.teachers.transport.client import Client
from rpd.teachers.transport.codec import encode


def until(condition):
    """Wait, however busy the machine is."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def gate(oracle):
    """A teacher that answers four rows at once; its first answer waits for `opened`."""

    class Gate(oracle):
        rows_at_once = 4

        def __init__(self):
            super().__init__()
            self.computing, self.opened = threading.Event(), threading.Event()

        def label(self, obs, instructions, student_action=None):
            self.computing.set()
            assert self.opened.wait(60)
            return super().label(obs, instructions, student_action)

    return Gate()


def question(obs):
    return {**{key: value.numpy() for key, value in obs.items()}, "prompt": ["a"] * len(obs)}


def in_thread(call, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(call(*args)))
    thread.start()
    return thread, results


@pytest.mark.parametrize("request_of", [question, lambda obs: label(obs)], ids=["infer", "label"])
def test_clients_take_turns(request_of, gate, serving, oracle, toy_obs):
    served = serving(gate)
    large, small = Client(served.url, share=False), Client(served.url, share=False)
    first, answers = in_thread(large.request, request_of(toy_obs(18)))
    assert gate.computing.wait(60)
    second, _ = in_thread(small.request, question(toy_obs(1)))
    until(lambda: served.server._worker._work_queue.qsize() == 1)
    gate.opened.set()
    first.join(), second.join()
    assert [rows for rows, _ in gate.asked] == [4, 1, 4, 4, 4, 2]
    expected = oracle().act(toy_obs(18), ["a"] * 18) if request_of is question else oracle().label(toy_obs(18), ["a"] * 18).mean
    got = answers[0]["actions"][:, 0] if request_of is question else answers[0]["mean"]
    np.testing.assert_array_equal(got, expected)
    large.close(), small.close()


def label(obs):
    arrays = {key: value.numpy() for key, value in obs.items()}
    return {"request": "label", "obs": arrays, "instructions": ["a"] * len(obs), "student_action": np.zeros((len(obs), 3))}


def test_requests_of_disconnected_clients_are_dropped(gate, serving, toy_obs):
    served = serving(gate)
    with connect(served.url) as client:
        client.recv()
        client.send(encode(question(toy_obs(18))))
        assert gate.computing.wait(60)
    gate.opened.set()
    until(lambda: served.status.clients == 0)
    assert [rows for rows, _ in gate.asked] == [4]


def test_server_behind_a_server_holds_up_one_client(gate, serving, oracle, toy_spec, toy_obs):
    """Who waits for another machine leaves this one to the others."""

    class Elsewhere(oracle):
        runs_remotely = True
        waiting, opened = threading.Event(), threading.Event()

        def act(self, obs, instructions):
            if len(instructions) == 2:
                self.waiting.set()
                assert self.opened.wait(60)
            return torch.zeros(len(instructions), 3)

    served = serving(Elsewhere())
    one, other = Client(served.url), Client(served.url)
    thread, _ = in_thread(one.request, question(toy_obs(2)))
    assert served.teacher.waiting.wait(60)
    assert other.request(question(toy_obs(1)))["actions"].shape == (1, 1, 3)
    served.teacher.opened.set()
    thread.join()
    one.close(), other.close()


def test_limits_are_named(serving, oracle, toy_spec, toy_obs):
    class Looker(oracle):
        needs_teacher_images = True

    client = Client(serving(Looker(), max_rows=5).url)
    assert client.metadata["limits"]["rows"] == 5
    image = np.zeros((1, 8, 8, 3), np.uint8)
    wide = np.zeros((1, 2, 2049, 3), np.uint8)
    for message, refusal in (
        (question(toy_obs(6)), "6 observations in a request, and the limit is 5: ask in parts, or serve with a larger"),
        (label(toy_obs(6)), "6 observations in a request, and the limit is 5"),
        ({"request": "reset", "mask": np.zeros(6, bool)}, "6 observations in a request, and the limit is 5"),
        ({"view.front": wide, "prompt": ["a"]}, "an image of 2 x 2049 pixels, and the limit is 2048 x 2048"),
        ({f"view.{i}": image for i in range(17)} | {"prompt": ["a"]}, "17 images in an observation, and the limit is 16"),
    ):
        with pytest.raises(ServerLost, match=refusal):
            client.request(message)
    client.close()


def test_limit_of_a_message_is_named(serving):
    with connect(serving(limits=Limits(message_bytes=1000)).url) as client:
        client.recv()
        with pytest.raises(ConnectionClosed) as error:
            client.send(b"x" * 1001)
            client.recv()
        assert "1001" in error.value.rcvd.reason and "1000" in error.value.rcvd.reason


def test_teacher_splits_large_batches(serving, oracle, toy_spec, toy_obs):
    """More environments than the server takes at once are no trouble where rows are nothing to remember by."""

    class Forgetful(oracle):
        has_memory = False

    served = serving(Forgetful(), max_rows=4)
    remote = registry.make(f"remote:{served.url}", toy_spec())
    obs, words, action = toy_obs(10), ["a"] * 10, torch.randn(10, 3)
    expected = oracle().label(obs, words, action)
    got = remote.label(obs, words, action)
    assert torch.equal(got.mean, expected.mean) and torch.equal(got.log_prob, expected.log_prob)
    assert torch.equal(remote.act(obs, words), oracle().act(obs, words))
    assert [rows for rows, _ in served.teacher.asked] == [4, 4, 2] * 2
    remote.close()
