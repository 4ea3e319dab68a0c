"""Our client against a server that speaks openpi's protocol and nothing of ours, written by hand."""

import threading

import msgpack
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from websockets.sync.server import serve

from envs.errors import ConfigError, ServerLost, SpecMismatch
from envs.specs import ObsSpec
from teachers import registry
from teachers.base import Views


def pack(value):
    def array(obj):
        return {b"__ndarray__": True, b"data": obj.tobytes(), b"dtype": obj.dtype.str, b"shape": obj.shape}

    return msgpack.packb(value, default=array)


def unpack(data):
    def array(fields):
        if b"__ndarray__" not in fields:
            return fields
        return np.ndarray(buffer=fields[b"data"], dtype=np.dtype(fields[b"dtype"]), shape=fields[b"shape"])

    return msgpack.unpackb(data, object_hook=array)


class Policy:
    """Serves as openpi does: metadata, one observation at a time, a traceback and a closed connection on an error."""

    def __init__(self, dim=3):
        self.dim, self.seen = dim, []
        self.server = serve(self.handle, "127.0.0.1", 0, compression=None, max_size=None)
        self.url = f"ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        connection.send(pack({"reset_pose": [0.0, -1.5]}))
        for frame in connection:
            obs = unpack(frame)
            self.seen.append(obs)
            if "observation/state" not in obs:
                connection.send("Traceback (most recent call last):\n  File ...\nKeyError: 'observation/state'\n")
                connection.close(1011)
                return
            first = np.full(self.dim, obs["observation/state"].sum() + len(obs["prompt"]))
            actions = np.stack([first, first + 100])  # float64, a horizon of two
            connection.send(pack({"actions": actions, "server_timing": {"infer_ms": 1.0}}))


@pytest.fixture
def policy():
    policies = []

    def start(**options):
        policies.append(Policy(**options))
        return policies[-1]

    yield start
    for policy in policies:
        policy.server.shutdown()


def test_it_gives_means(policy, toy_spec):
    served = policy()
    teacher = registry.make(f"remote:{served.url}", toy_spec())
    assert teacher.provides == {"mean"} and teacher.bin_edges is None
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    obs = TensorDict({"state": torch.tensor([[0.1, 0.2], [-3.0, -3.0]]), "image.front": images}, [2])
    answer = teacher.label(obs, ["", "go"])
    torch.testing.assert_close(answer.mean, torch.tensor([[0.3] * 3, [-1.0] * 3]))  # -4, clipped
    assert answer.valid.tolist() == [True, True] and answer.tensors().keys() == {"mean", "valid"}
    assert torch.equal(teacher.act(obs, ["", "go"]), answer.mean)
    sent = served.seen[2]
    assert sent.keys() == {"observation/image", "observation/state", "prompt"} and sent["prompt"] == "go"
    assert sent["observation/image"].dtype == np.uint8 and (sent["observation/image"] == images[1].numpy()).all()
    teacher.reset(torch.tensor([True, False])), teacher.seed(1)  # nothing on this wire
    teacher.client.close()


def test_names(policy, toy_spec):
    served = policy()
    two = toy_spec().observations | {"image.wrist": ObsSpec(shape=(8, 8, 3), dtype="uint8")}
    names = "images=wrist:wrist_image+front:base_image,prompt=task"
    with pytest.raises(SpecMismatch, match="KeyError"):  # of a policy that wants observation/state
        registry.make(f"remote:{served.url},{names},state=s", toy_spec(observations=two))
    assert served.seen[0].keys() == {"base_image", "wrist_image", "s", "task"}
    with pytest.raises(ConfigError, match=r"several cameras: .* e.g. images=front:observation/front\+wrist:observation/wrist"):
        registry.make(f"remote:{served.url}", toy_spec(observations=two))
    for images in ("front:a+wrist", "front:a+", ":a"):
        with pytest.raises(ConfigError, match=r"write camera:key, e.g. images=front:observation/image"):
            registry.make(f"remote:{served.url},images={images}", toy_spec(observations=two))


def test_cameras_of_its_own(policy, toy_spec):
    """The student sees no images; the teacher is shown them."""
    served, spec = policy(), toy_spec()
    blind = spec.model_copy(update={"observations": {"state": spec.observations["state"]}})
    name = f"remote:{served.url},images=top:observation/image"
    assert registry.needs(name) == Views(("top",)) and registry.needs(f"remote:{served.url}") == Views()
    teacher = registry.make(name, blind)
    assert teacher.looks
    views = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    obs = TensorDict({"state": torch.zeros(1, 2), "view.top": views}, [1])
    teacher.label(obs, ["a"])
    assert (served.seen[-1]["observation/image"] == views[0].numpy()).all()
    with pytest.raises(ConfigError, match=r"looks through camera 'top': add --env.teacher-cameras top"):
        teacher.label(obs.exclude("view.top"), ["a"])
    teacher.client.close()


def test_another_number_of_dimensions(policy, toy_spec):
    with pytest.raises(SpecMismatch, match=r"its actions have 7; environment \(toy/Toy\) has 3"):
        registry.make(f"remote:{policy(dim=7).url}", toy_spec())


def test_answers_without_actions(policy, toy_spec):
    teacher = registry.make(f"remote:{policy().url}", toy_spec())
    teacher.client.request = lambda message: {"action": np.zeros(3)}
    with pytest.raises(ServerLost, match="without actions"):
        teacher.label(TensorDict({"state": torch.zeros(1, 2), "image.front": torch.zeros(1, 96, 96, 3)}, [1]), ["a"])
