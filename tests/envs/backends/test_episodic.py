"""Episodes, seeds and the NaN guard of `EpisodicEnv`, over a simulation that only counts."""

import pytest
import torch

from rpd.envs.backends.episodic import EpisodicEnv, derive_seed
from rpd.envs.backends.protocol import Outcome
from rpd.envs.errors import NonFiniteError
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec

LIMIT = 10


class Counting:
    """State: (seed, steps). The action is copied to success where it is 1, and to NaN in the state where it is -1."""

    device = torch.device("cpu")
    exact_resume = False

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.state = torch.zeros(num_envs, 2)
        self.closed = 0
        self.spec = EnvSpec(
            task="maniskill/Counting-v1",
            embodiment=Embodiment(name="none", num_joints=0, descriptor={}),
            observations={"state": ObsSpec(shape=(2,), dtype="float32")},
            state_names=("seed", "steps"),
            action=ActionSpec(names=("a",), units=("",), scale=(1.0,), discrete=(False,)),
            control_hz=20,
            max_episode_steps=LIMIT,
            reward="dense",
        )

    def step(self, action):
        self.state[:, 1] += 1
        self.state[action[:, 0] == -1, 1] = float("nan")
        return Outcome({"state": self.state}, torch.full((self.num_envs,), -0.5), action[:, 0] == 1)

    def reset(self, envs, seeds, exact):
        for env, seed in zip(envs, seeds, strict=True):
            self.state[env] = torch.tensor([seed % 1000, 0])
        return {"state": self.state}

    def render(self, envs):
        return torch.arange(len(envs), dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3)

    def get_state(self):
        return self.state.clone()

    def set_state(self, state, seeds):
        self.state.copy_(state)
        return {"state": self.state}

    def close(self):
        self.closed += 1


def _env(n=3):
    return EpisodicEnv(Counting(n), torch.device("cpu"), lambda seed: f"count from {seed}")


def test_success_at_the_last_step_is_a_termination():
    env = _env(2)
    env.reset(40)
    for _ in range(LIMIT - 1):
        assert env.step(torch.zeros(2, 1)).episode is None
    out = env.step(torch.tensor([[1.0], [0.0]]))
    assert out.terminated.tolist() == [True, False] and out.truncated.tolist() == [False, True]
    assert out.final_obs["state"].tolist() == [[40, LIMIT], [41, LIMIT]]
    assert out.obs["state"].tolist() == [[derive_seed(40, 1) % 1000, 0], [derive_seed(41, 1) % 1000, 0]]
    e = out.episode
    assert e.env.tolist() == [0, 1] and e.seed.tolist() == [40, 41] and e.length.tolist() == [LIMIT, LIMIT]
    assert e.episode_return.tolist() == [-0.5 * LIMIT] * 2
    assert e.success_once.tolist() == e.success_at_end.tolist() == [True, False]


def test_ignore_terminations_keeps_stepping_and_reports_success():
    env = EpisodicEnv(Counting(2), torch.device("cpu"), str, ignore_terminations=True)
    env.reset(0)
    actions = torch.zeros(LIMIT, 2, 1)
    actions[[3, 5], 0] = 1.0  # environment 0 is solved after the 4th step, and again after the 6th
    out = [env.step(action) for action in actions]
    assert all(o.episode is None and not o.terminated.any() for o in out[:-1]) and out[-1].truncated.all()
    e = out[-1].episode
    assert e.length.tolist() == [LIMIT] * 2 and e.solved_after[0] == 4
    assert e.success_once.tolist() == [True, False] and e.success_at_end.tolist() == [False, False]


def test_only_ended_episodes_are_reset():
    env = _env()
    env.reset(0)
    env.step(torch.zeros(3, 1))
    out = env.step(torch.tensor([[0.0], [1.0], [0.0]]))
    assert out.episode.env.tolist() == [1] and out.final_obs["state"].tolist() == [[1, 2]]
    assert out.obs["state"][:, 1].tolist() == [2, 0, 2]


def test_stagger_shortens_first_episodes_only():
    def lengths(n):
        env = _env(n)
        env.reset(5, random_start_length=True)
        seen = [[] for _ in range(n)]
        for _ in range(3 * LIMIT):
            episode = env.step(torch.zeros(n, 1)).episode
            if episode is not None:
                for i, length in zip(episode.env.tolist(), episode.length.tolist(), strict=True):
                    seen[i].append(length)
        return seen

    many = lengths(32)
    first = {rows[0] for rows in many}
    assert len(first) > 4 and first <= set(range(1, LIMIT + 1))
    assert {length for rows in many for length in rows[1:]} == {LIMIT}
    assert [rows[0] for rows in lengths(4)] == [rows[0] for rows in many[:4]]  # whatever N is


def test_nan_from_the_simulation_names_its_source():
    env = _env()
    env.reset(20)
    env.step(torch.zeros(3, 1))
    with pytest.raises(NonFiniteError, match=r"environment: state of environments 2; episode seed 22, step 2, entries steps"):
        env.step(torch.tensor([[0.0], [0.0], [-1.0]]))


def test_state_dict_holds_the_episodes():
    env, other = _env(), _env()
    env.reset(3, random_start_length=True)
    for _ in range(4):
        env.step(torch.tensor([[0.0], [1.0], [0.0]]))
    saved = {k: v.clone() for k, v in env.state_dict().items()}
    other.reset(0, random_start_length=True)
    assert torch.equal(other.load_state_dict(saved)["state"], env.backend.state)
    for _ in range(LIMIT + 2):
        a, b = env.step(torch.zeros(3, 1)), other.step(torch.zeros(3, 1))
        assert torch.equal(a.obs["state"], b.obs["state"]) and torch.equal(a.truncated, b.truncated)
        if a.episode is not None:
            assert torch.equal(a.episode.episode_return, b.episode.episode_return) and torch.equal(
                a.episode.seed, b.episode.seed
            )


def test_render_resizes_requested_environments():
    env = _env(3)
    frames = env.render([2, 0], size=6)
    assert frames.shape == (2, 6, 6, 3) and frames.dtype == torch.uint8
    assert frames[1].float().mean() == 1
    env.close()
    env.close()
    assert env.backend.closed == 2
