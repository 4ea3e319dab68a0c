"""Everything about a single environment that is known before it runs, found by playing it for a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, unknown_name
from rpd.envs.gym import build, success
from rpd.envs.gym.names import ROBOTS, Source, resolve
from rpd.envs.gym.spaces import Actions, Observations
from rpd.envs.gym.success import Success
from rpd.envs.specs import Embodiment, EnvSpec, ObsSpec

RENDERED = "render"
"""Camera of `Env.render`."""
_PROBED = 8
"""Steps of an episode that are compared with their repetition."""


@dataclass(frozen=True)
class Plan:
    """A single environment, described.

    Attributes:
        source: where it comes from.
        config: its options.
        observations: layout of its observations.
        actions: map of its actions.
        success: what solves it.
        images: the student's cameras.
        views: teacher-only cameras.
        size, view_size: their sizes, pixels.
        renders: whether `Env.render` returns pictures.
        repeats: whether two episodes with the same seed and actions are equal.
        spec: the spec of the environment.
    """

    source: Source
    config: EnvConfig
    observations: Observations
    actions: Actions
    success: Success
    images: tuple[str, ...]
    views: tuple[str, ...]
    size: int
    view_size: int
    renders: bool
    repeats: bool
    spec: EnvSpec

    @property
    def remarks(self) -> tuple[str, ...]:
        """One line for each property that a user should know of."""
        task = self.source.task
        remarks = {
            success.undefined(task): not self.success.defined,
            f"{task} does not repeat an episode with the same seed and actions: evaluations are not paired, and a resumed run "
            "starts new episodes": not self.repeats,
            f"{task} has no render mode {build.RGB}: its videos are blank": not self.renders,
        }
        return tuple(remark for remark, applies in remarks.items() if applies)


def plan(task: str, config: EnvConfig) -> Plan:
    """Describe an environment.

    Raises:
        ConfigError: spaces, success, cameras or a time limit that cannot be used.
    """
    source = resolve(task)
    env = build.single(source, config)
    try:
        with build.explained(task):
            return _plan(source, env, config)
    finally:
        env.close()


def _plan(source: Source, env: gymnasium.Env, config: EnvConfig) -> Plan:
    task = source.task
    observations, actions = Observations(task, env.observation_space), Actions(task, env.action_space)
    limit = build.time_limit(task, env, config)
    infos, first = _play(env, observations, actions)
    _, again = _play(env, observations, actions)
    if success.missing(config.success, infos):
        infos = _play_to_end(env, actions, limit)  # some environments report success at the end alone
    rule = success.rule(task, config.success, infos, getattr(env.spec, "reward_threshold", None))
    renders = env.render_mode == build.RGB
    images, views, size, view_size = cameras(task, observations, config, renders)
    spec = describe(
        task, config, observations, actions, rule, dict.fromkeys(images, size), limit, build.control_hz(env)
    )  # fmt: skip
    return Plan(
        source, config, observations, actions, rule, images, views, size, view_size, renders, np.array_equal(first, again), spec
    )


def cameras(
    task: str, observations: Observations, config: EnvConfig, renders: bool
) -> tuple[tuple[str, ...], tuple[str, ...], int, int]:
    """Choose the cameras of the student and of a teacher, and the sizes of their images.

    Raises:
        ConfigError: a camera that the environment does not have, or observations without a camera.
    """
    known = (*observations.images, *((RENDERED,) if renders else ()))
    chosen: tuple[str, ...] = ()
    if config.obs_mode == "rgb":
        chosen = config.cameras or tuple(observations.images) or known
        if not chosen:
            raise ConfigError(f"{task} has no images, and no render mode {build.RGB}: use --env.obs-mode state")
    elif not observations.names:
        raise ConfigError(f"{task} is observed by images alone ({', '.join(observations.images)}): add --env.obs-mode rgb")
    for camera in (*chosen, *config.teacher_cameras):
        if camera not in known:
            raise unknown_name(f"camera for {task}", camera, known)
    size = config.image_size or min((observations.size(name) for name in chosen if name != RENDERED), default=_RENDERED_SIZE)
    view_size = config.teacher_image_size or size
    views = tuple(name for name in config.teacher_cameras if not (view_size == size and name in chosen))
    return chosen, views, size, view_size


_RENDERED_SIZE = 128


def describe(
    task: str,
    config: EnvConfig,
    observations: Observations,
    actions: Actions,
    rule: Success,
    images: dict[str, int],
    limit: int,
    control_hz: float,
) -> EnvSpec:
    """Spec of an environment.

    Args:
        task: its name.
        config: its options.
        observations: layout of its observations.
        actions: map of its actions.
        rule: what solves it.
        images: size of each camera's image, pixels.
        limit: control steps of an episode.
        control_hz: control steps per second.

    Raises:
        ConfigError: a sparse reward, and nothing that solves the task.
    """
    if config.reward == "sparse" and not rule.defined:
        raise ConfigError(f"{task} defines no success, which the sparse reward is made of: add --env.success, or dense")
    return EnvSpec(
        task=task,
        embodiment=Embodiment(name=ROBOTS[0], num_joints=0, descriptor={}),
        observations={
            "state": ObsSpec(shape=(len(observations.names),), dtype="float32"),
            **{f"image.{camera}": ObsSpec(shape=(size, size, 3), dtype="uint8") for camera, size in images.items()},
        },
        state_names=observations.names,
        action=actions.spec,
        control_hz=control_hz,
        max_episode_steps=limit,
        reward=config.reward or "dense",
    )


def _play(env: gymnasium.Env, observations: Observations, actions: Actions) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Start the episode of seed 0 and take random steps; infos, and all observations and rewards in one array."""
    obs, info = env.reset(seed=0)
    observations.check(obs)
    infos, numbers = [info], [observations.state(batch_of(obs))[0]]
    for action in _random(actions, _PROBED):
        obs, reward, terminated, truncated, info = env.step(action)
        observations.check(obs)
        infos.append(info)
        numbers += [observations.state(batch_of(obs))[0], np.array([reward], np.float64)]
        if terminated or truncated:
            break
    return infos, np.concatenate(numbers)


def _play_to_end(env: gymnasium.Env, actions: Actions, limit: int) -> list[dict[str, Any]]:
    """Infos of a whole random episode."""
    infos = [env.reset(seed=0)[1]]
    for action in _random(actions, limit):
        _, _, terminated, truncated, info = env.step(action)
        infos.append(info)
        if terminated or truncated:
            break
    return infos


def _random(actions: Actions, count: int) -> np.ndarray:
    """Random actions [count, ...] of the environment."""
    return actions.physical(np.random.default_rng(0).uniform(-1, 1, (count, actions.spec.dim)))


def batch_of(obs: Any) -> Any:
    """A batch [1, ...] of one observation."""
    if isinstance(obs, dict):
        return {key: batch_of(value) for key, value in obs.items()}
    return tuple(map(batch_of, obs)) if isinstance(obs, tuple) else np.asarray(obs)[None]
