"""Numbers that cannot be, on either side of a server: told to the client, and the next request is answered."""

import numpy as np
import pytest
import torch

from rpd.envs.errors import ServerLost
from rpd.teachers.transport.client import Client

UNSOUND = (np.nan, np.inf, -1e30)


def observation(obs):
    return {**{key: value.numpy().copy() for key, value in obs.items()}, "prompt": ["go"] * len(obs)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", UNSOUND)
def test_observation_is_refused_by_entry(serving, toy_obs, bad, dtype):
    client, asked = Client(serving().url), observation(toy_obs(2))
    state = asked["state"].astype(dtype)
    state[1, 1] = bad
    told = r"state: finite numbers up to 1e\+06 are expected, not b = "
    with pytest.raises(ServerLost, match=told):
        client.request({**asked, "state": state})
    label = {"request": "label", "instructions": ["go"] * 2, "obs": {key: asked[key] for key in ("state", "image.front")}}
    with pytest.raises(ServerLost, match=told):
        client.request({**label, "obs": {**label["obs"], "state": state}})
    with pytest.raises(ServerLost, match="student_action: finite numbers"):
        client.request({**label, "student_action": np.full((2, 3), bad, np.float32)})
    assert client.request(asked)["actions"].shape == (2, 1, 3)


@pytest.mark.parametrize("bad", UNSOUND)
def test_answer_is_not_sent(serving, oracle, toy_obs, bad):
    teacher = oracle()
    running, asked = serving(teacher), observation(toy_obs(2))
    client = Client(running.url)
    sound = type(teacher).act
    try:
        type(teacher).act = lambda self, obs, instructions: torch.full((len(instructions), 3), bad)
        with pytest.raises(ServerLost, match="non-finite values from the policy oracle: action of row 0, 1: x = "):
            client.request(asked)
    finally:
        type(teacher).act = sound
    assert client.request(asked)["actions"].shape == (2, 1, 3)


def test_label_is_not_sent_unless_it_is_not_valid(serving, oracle, toy_obs, monkeypatch):
    teacher, obs = oracle(), observation(toy_obs(2))
    label = type(teacher).label

    def labelled(self, *args):
        answer = label(self, *args)
        answer.mean[1] = torch.nan
        return answer

    monkeypatch.setattr(type(teacher), "label", labelled)
    client = Client(serving(teacher).url)
    request = {"request": "label", "instructions": ["go"] * 2, "obs": {key: obs[key] for key in ("state", "image.front")}}
    with pytest.raises(ServerLost, match="non-finite values from the policy oracle: mean of a label"):
        client.request(request)
    request["obs"]["state"][1, 0] = 3  # a row that this policy does not label
    assert client.request(request)["valid"].tolist() == [True, False]
