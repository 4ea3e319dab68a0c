"""Frame stacking: the last K frames of this episode and no other, wherever an observation is shown."""

import pytest
import torch

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.wrappers.frame_stack import FrameStack

CAMERAS, N, K = ("front", "wrist"), 3, 3


def make(frames: int = K, **config):
    settings = {"num_envs": N, "obs_mode": "rgb", "cameras": CAMERAS, "image_size": 16, "max_episode_steps": 5}
    return envs.make("tabletop/Reach", EnvConfig(**{**settings, "frame_stack": frames, **config}), num_threads=1)


def actions(steps: int):
    return torch.rand(steps, N, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1


def stack(past: list[torch.Tensor]) -> torch.Tensor:
    """By hand: the last K frames of an episode; its first one stands for those before it."""
    return torch.cat([past[max(0, len(past) - k)] for k in range(K, 0, -1)], dim=-1)


def test_shows_the_frames_of_the_running_episode() -> None:
    plain, stacked = make(1), make()
    obs, seen = plain.reset(0, random_start_length=True), stacked.reset(0, random_start_length=True)
    ends = 0
    for key in ("image.front", "image.wrist"):
        assert seen[key].shape == (N, 16, 16, 3 * K)
    past = [{key: [obs[key][i]] for key in plain.spec.cameras} for i in range(N)]  # of the running episodes
    for action in actions(14):
        step, shown = plain.step(action), stacked.step(action)
        assert torch.equal(step.reward, shown.reward) and torch.equal(step.obs["state"], shown.obs["state"])
        ended = {} if step.episode is None else {e: k for k, e in enumerate(step.episode.env.tolist())}
        for i in range(N):
            for key, frames in past[i].items():
                if i in ended:
                    assert torch.equal(shown.final_obs[key][ended[i]], stack([*frames, step.final_obs[key][ended[i]]]))
                    frames.clear()
                frames.append(step.obs[key][i])
                assert torch.equal(shown.obs[key][i], stack(frames))
        ends += len(ended)
    assert ends >= 6


def test_returned_observations_are_not_overwritten() -> None:
    env = make()
    obs = [env.reset(0)]
    copies = [obs[0].clone()]
    for action in actions(7):
        obs.append(env.step(action).obs)
        copies.append(obs[-1].clone())
        obs[-2]["image.front"].zero_()  # it is the caller's
    assert torch.equal(obs[-1]["image.front"], copies[-1]["image.front"])
    again = make()
    again.reset(0)
    for action, copy in zip(actions(7), copies[1:], strict=True):
        assert torch.equal(again.step(action).obs["image.front"], copy["image.front"])


def test_state_dict_restores_frame_history() -> None:
    env, other = make(), make()
    env.reset(0)
    for action in actions(7):
        obs = env.step(action).obs
    state = env.state_dict()
    other.reset(99)
    assert torch.equal(other.load_state_dict(state)["image.wrist"], obs["image.wrist"])
    for action in actions(6):
        a, b = env.step(action), other.step(action)
        assert all(torch.equal(a.obs[key], b.obs[key]) for key in ("state", "image.front", "image.wrist"))
        if a.final_obs is not None:
            assert torch.equal(a.final_obs["image.front"], b.final_obs["image.front"])


def test_teacher_sees_single_frames() -> None:
    """Of a camera that the student has, too, and after a reset as well."""
    env, plain = make(cameras=("front",), teacher_cameras=CAMERAS), make(1, cameras=("front",), teacher_cameras=CAMERAS)
    env.reset(0)
    plain.reset(0)
    for action in actions(6):
        env.step(action)
        obs = plain.step(action).obs
        some = torch.tensor([0, 2])
        assert torch.equal(env.teacher_images()["view.front"], obs["image.front"])
        assert torch.equal(env.teacher_images(some)["view.front"], obs["image.front"][some])
        assert torch.equal(env.teacher_images()["view.wrist"], plain.teacher_images()["view.wrist"])


def test_spec_contains_frame_count() -> None:
    spec = make().spec
    assert spec.frames == K and spec.observations["image.front"].shape == (16, 16, 9)
    assert spec.stacked(1) == make(1).spec and spec.stacked(1).stacked(K) == spec
    assert make(1).spec.frames == 1 and not isinstance(make(1), FrameStack)


def test_frame_stack_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.frame_stack does nothing with env.obs_mode state: add --env.obs-mode rgb"):
        make(obs_mode="state", cameras=None, image_size=None)
