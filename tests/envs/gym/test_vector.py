"""Vector environments of Gymnasium: the three modes of autoreset, seeds, success, and what cannot be used."""

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.registry import make


def build(task, num_envs=2, **options):
    return make(task, EnvConfig(num_envs=num_envs, **options))


def play(env, count):
    return [env.step(torch.zeros(env.num_envs, 1)) for _ in range(count)]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_episodes_of_each_mode(examples, mode):
    """Environments 0 and 1 have episodes of 2 and 3 steps; the observation is (episode, step)."""
    env = build(f"{examples}Batch", make_kwargs=(f"mode={mode}",))
    env.reset(0)
    steps = play(env, 9)
    ended = [(e, n) for s in steps if s.episode for e, n in zip(s.episode.env.tolist(), s.episode.length.tolist(), strict=True)]
    assert {n for e, n in ended if e == 0} == {2} and {n for e, n in ended if e == 1} == {3}
    finals = [row for s in steps if s.episode for row in s.final_obs["state"].tolist()]
    assert all(step in (2.0, 3.0) for _, step in finals)
    first = steps[1]  # where environment 0 ends its first episode
    assert first.truncated.tolist() == [True, False] and first.final_obs["state"].tolist() == [[0, 2]]
    assert first.episode.success_at_end.tolist() == [True] and first.episode.episode_return.tolist() == [2]
    if mode == "NextStep":  # the step after the end starts the episode
        assert first.obs["state"][0].tolist() == [0, 2] and steps[2].obs["state"][0].tolist() == [1, 0]
        assert steps[2].reward.tolist() == [0, 1]
    else:
        assert first.obs["state"][0].tolist() == [1, 0]
    assert not env.exact_resume
    env.close()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_first_episodes_of_gymnasiums_vectors_have_their_seeds(examples, mode):
    pair, alone = (build(f"{examples}lines", n, make_kwargs=(f"mode={mode}",), max_episode_steps=5) for n in (2, 1))
    assert torch.equal(pair.reset(8)["state"][1], alone.reset(9)["state"][0])
    play(pair, 7)
    assert torch.equal(pair.reset(8)["state"][1], alone.reset(9)["state"][0])
    pair.close(), alone.close()


def test_gymnasiums_vectors_have_seeds_in_later_episodes(examples):
    one, other = (build(f"{examples}lines", max_episode_steps=5) for _ in range(2))
    one.reset(8), other.reset(8)
    rows = [[s.obs["state"] for s in play(env, 12)] for env in (one, other)]
    assert torch.equal(*map(torch.stack, rows))
    assert not torch.equal(rows[0][4], one.reset(8)["state"])
    one.close(), other.close()


def test_resumed_vector_starts_new_episodes(examples):
    env = build(f"{examples}lines", max_episode_steps=5)
    env.reset(0)
    play(env, 2)
    state = env.state_dict()
    first = env.load_state_dict(state)
    steps = play(env, 5)
    assert steps[-1].episode.length.tolist() == [5, 5] and first["state"].shape == (2, 4)
    env.close()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("{}Batch", {"make_kwargs": ("mode=",)}, "'mode=' is not an option"),
        ("{}Batch", {"make_kwargs": ("mode=null",)}, r"metadata has autoreset_mode None.*NextStep, SameStep, Disabled"),
        ("{}lines", {"make_kwargs": ("mode=Sometimes",)}, r"ValueError: 'Sometimes' is not a valid AutoresetMode"),
        ("{}Batch", {"success": "solved"}, r"info has no 'solved', only success"),
        ("{}Batch", {"num_workers": 2}, r"env.num_workers: .* is a vector environment"),
    ],
)  # fmt: skip
def test_bad_input(examples, task, options, message):
    with pytest.raises(ConfigError, match=message):
        build(task.format(examples), **options)


def test_same_step_without_the_last_observation(examples):
    env = build(f"{examples}Batch", make_kwargs=("mode=SameStep", "final=false"))
    env.reset(0)
    with pytest.raises(RunFault, match="infos have no final_obs at the end of an episode"):
        play(env, 2)
    env.close()
