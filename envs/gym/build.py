"""Build a Gymnasium environment, or a vector of them, from a task's source and its options."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv

from rpd.envs import unique_yaml
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, RunFault
from rpd.envs.gym.names import Source
from rpd.envs.options import keyed

RGB = "rgb_array"
_DEFAULT_HZ = 30.0
"""Control rate of an environment without ``render_fps`` in its metadata, as in Gymnasium's `RecordVideo`."""


@contextlib.contextmanager
def explained(task: str) -> Iterator[None]:
    """Convert the exceptions of an environment's code to one line that names the task.

    Raises:
        ConfigError: instead of any other exception.
    """
    try:
        yield
    except (ConfigError, RunFault):
        raise
    except Exception as error:
        raise ConfigError(f"{task}: {type(error).__name__}: {_message(error)}") from error


def _message(error: Exception) -> str:
    """First line of an exception's message; without one, as of an assertion, the line of code that raised it."""
    if text := str(error).strip():
        return text.splitlines()[0]
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.line} ({last.filename}, line {last.lineno})"


def make_kwargs(config: EnvConfig) -> dict[str, Any]:
    """Arguments of the environment by name.

    Raises:
        ConfigError: see `rpd.envs.options.keyed`.
    """
    given = keyed(config.make_kwargs, "env.make_kwargs", "KEY=VALUE")
    return {key: unique_yaml.load(value, f"env.make_kwargs {key}") for key, value in given.items()}


def single(source: Source, config: EnvConfig) -> gymnasium.Env:
    """Build one environment.

    Raises:
        ConfigError: the environment cannot be built.
    """
    with explained(source.task):
        kwargs = make_kwargs(config)
        if source.registration is not None:
            if _renders(source.registration.entry_point):
                kwargs.setdefault("render_mode", RGB)
            if config.max_episode_steps is not None:
                kwargs["max_episode_steps"] = config.max_episode_steps
            env = gymnasium.make(source.registration, disable_env_checker=True, **kwargs)
        else:
            assert source.build is not None
            if "render_mode" in inspect.signature(source.build).parameters:
                kwargs.setdefault("render_mode", RGB)
            env = source.build(**kwargs)
        if not isinstance(env, gymnasium.Env):
            raise ConfigError(f"{source.task} makes a {type(env).__name__}: it has to make a gymnasium.Env")
        return env


def vector(source: Source, config: EnvConfig) -> VectorEnv:
    """Build `config.num_envs` environments at once.

    Raises:
        ConfigError: the environment cannot be built, or has another number of environments.
    """
    with explained(source.task):
        kwargs = make_kwargs(config)
        if source.registration is not None:
            if config.max_episode_steps is not None:
                kwargs["max_episode_steps"] = config.max_episode_steps
            env = gymnasium.make_vec(
                source.registration, config.num_envs, vectorization_mode="vector_entry_point", **kwargs
            )  # fmt: skip
        else:
            assert source.build is not None
            env = source.build(num_envs=config.num_envs, **kwargs)
        if not isinstance(env, VectorEnv):
            what = "it has the parameter num_envs, and has to make a gymnasium.vector.VectorEnv"
            raise ConfigError(f"{source.task} makes a {type(env).__name__}: {what}")
        if env.num_envs != config.num_envs:
            env.close()
            raise ConfigError(
                f"{source.task} has {env.num_envs} environments, and env.num_envs is {config.num_envs}: "
                f"add --env.num-envs {env.num_envs}"
            )
        return env


def control_hz(env: gymnasium.Env | VectorEnv) -> float:
    """Control steps per second."""
    return float((env.metadata or {}).get("render_fps") or _DEFAULT_HZ)


def time_limit(task: str, env: gymnasium.Env | VectorEnv, config: EnvConfig) -> int:
    """Maximum control steps of an episode: the option, else the limit of the registration or of the environment itself.

    Raises:
        ConfigError: there is none.
    """
    registered = getattr(env.spec, "max_episode_steps", None)
    if isinstance(env, gymnasium.Env):
        owns = [name for name in _LIMITS if env.has_wrapper_attr(name)]
        own = env.get_wrapper_attr(owns[0]) if owns else None
    else:
        own = next((getattr(env, name) for name in _LIMITS if hasattr(env, name)), None)
    limit = config.max_episode_steps or registered or own
    if not limit:
        raise ConfigError(f"{task} has no time limit, which training needs: add --env.max-episode-steps NUMBER")
    return int(limit)


_LIMITS = ("_max_episode_steps", "max_episode_steps", "max_path_length")
"""Attributes that hold a time limit: of Gymnasium's `TimeLimit`, of vector environments, of metaworld."""


def _renders(entry_point: Any) -> bool:
    """Whether the class of an entry point has the render mode `RGB`."""
    creator = entry_point if callable(entry_point) else load_env_creator(entry_point)
    declared = RGB in (getattr(creator, "metadata", None) or {}).get("render_modes", ())
    return declared or "render_mode" in inspect.signature(creator).parameters
