"""Worker processes, started as interpreters and as forks, over a simulation that only counts."""

import os
import signal

import pytest
import torch

from rpd.envs.backends.protocol import Outcome
from rpd.envs.backends.subprocess.backend import Workers
from rpd.envs.backends.subprocess.launch import Forks, Interpreters
from rpd.envs.errors import ConfigError, RunFault, WorkerDied
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec


class Counter:
    """State: (process that built it, seed, steps)."""

    render_shape = (1, 1, 3)
    exact_resume = True
    remarks = ("it only counts",)

    def __init__(self, builder):
        self.view_shapes = {}
        self.state = torch.tensor([[builder, 0, 0]], dtype=torch.float64)
        self.spec = EnvSpec(
            task="counter",
            embodiment=Embodiment(name="none", num_joints=0, descriptor={}),
            observations={"state": ObsSpec(shape=(3,), dtype="float32")},
            state_names=("builder", "seed", "steps"),
            action=ActionSpec(names=("a",), units=("",), scale=(1.0,), discrete=(False,)),
            control_hz=20,
            max_episode_steps=10,
            reward="sparse",
        )

    def step(self, action):
        if action.item() == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        if action.item() == -0.5:
            raise ValueError("half a step back")
        self.state[0, 2] += 1
        return Outcome(self.observe(), torch.zeros(1), torch.zeros(1, dtype=torch.bool))

    def reset(self, seed, exact=False):
        self.state[0, 1:] = torch.tensor([seed, 0])
        return self.observe()

    def observe(self):
        return {"state": self.state.float()}

    def teacher_images(self):
        return {}

    def render(self):
        return torch.full((1, 1, 1, 3), int(self.state[0, 2]), dtype=torch.uint8)

    def get_state(self):
        return self.state.clone()

    def set_state(self, state):
        self.state.copy_(state)


def factory(refuse=""):
    if refuse:
        raise ConfigError(refuse)
    builder = os.getpid() % 2**20
    return lambda: Counter(builder)


def _workers(starter, num_envs=3, **arguments):
    return Workers(num_envs, 2, lambda memory: starter("tests.envs.backends.test_subprocess", arguments, {}, memory))


@pytest.fixture(params=[Interpreters, Forks])
def starter(request):
    return request.param


@pytest.mark.slow
def test_environments_are_spread_over_workers(starter):
    workers = _workers(starter)
    try:
        obs = workers.reset([0, 1, 2], [7, 8, 9], exact=True)["state"]
        assert obs[:, 1].tolist() == [7, 8, 9]
        # Forks were built by one process, interpreters each by itself.
        assert len(set(obs[:, 0].tolist())) == (1 if starter is Forks else 2)
        assert workers.step(torch.zeros(3, 1)).obs["state"][:, 2].tolist() == [1, 1, 1]
        assert workers.reset([1], [5], exact=True)["state"][:, 1:].tolist() == [[7, 1], [5, 0], [9, 1]]
        saved = workers.get_state()
        assert saved.dtype == torch.float64
        workers.step(torch.zeros(3, 1))
        assert workers.set_state(saved, [7, 5, 9])["state"][:, 1:].tolist() == [[7, 1], [5, 0], [9, 1]]
        assert workers.render([2]).flatten().tolist() == [1, 1, 1]
    finally:
        workers.close()
        workers.close()


@pytest.mark.slow
def test_dead_worker_is_named_and_replaced_at_next_reset(starter):
    workers = _workers(starter)
    try:
        workers.reset([0, 1, 2], [0, 1, 2], exact=True)
        with pytest.raises(WorkerDied, match=r"worker 1 \(environments 2 to 2\) was killed by SIGKILL"):
            workers.step(torch.tensor([[0.0], [0.0], [-1.0]]))
        with pytest.raises(WorkerDied, match=r"worker 1 .* SIGKILL"):  # not before a reset of all
            workers.step(torch.zeros(3, 1))
        assert workers.reset([0, 1, 2], [3, 4, 5], exact=True)["state"][:, 1:].tolist() == [[3, 0], [4, 0], [5, 0]]
        with pytest.raises(RunFault, match=r"worker 0 .*ValueError: half a step back"):
            workers.step(torch.tensor([[-0.5], [0.0], [0.0]]))
        assert workers.reset([0, 1, 2], [6, 7, 8], exact=True)["state"][:, 1:].tolist() == [[6, 0], [7, 0], [8, 0]]
        assert workers.step(torch.zeros(3, 1)).obs["state"][:, 2].tolist() == [1, 1, 1]
    finally:
        workers.close()


@pytest.mark.slow
def test_worker_construction_error_is_raised_verbatim(starter):
    with pytest.raises(ConfigError, match=r"^no such thing$"):
        _workers(starter, refuse="no such thing")
