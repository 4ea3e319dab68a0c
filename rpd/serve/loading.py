"""Loading of the served policy, with the environment spec of its clients."""

from __future__ import annotations

from rpd.config.loader import configure
from rpd.config.serve import ServeConfig
from rpd.core.device import resolve_device
from rpd.envs import registry as envs
from rpd.envs.errors import ConfigError
from rpd.envs.specs import EnvSpec
from rpd.teachers import registry as teachers
from rpd.teachers.adapters.student import frozen
from rpd.teachers.base import CameraRequest, Teacher
from rpd.teachers.refs import parse, trained_path

ENVIRONMENT = ("task", "robot", "obs_mode", "cameras", "image_size", "control_mode")


def load(options: ServeConfig) -> tuple[Teacher, EnvSpec, CameraRequest]:
    """Build the served policy, the spec of its environment, and the images that it requires.

    Raises:
        ConfigError: unknown policy, a missing environment option for a teacher, or one given for a trained policy.
    """
    given = [f"--{name.replace('_', '-')}" for name in ENVIRONMENT if getattr(options, name) is not None]
    device = resolve_device(options.device)
    if (path := trained_path(options.policy)) is not None:
        if given:
            raise ConfigError(f"{options.policy} has the environment that it was trained for: leave out {', '.join(given)}")
        served = frozen(path, None, device, parse(options.policy).options)
        return served, served.policy.spec, teachers.camera_request(options.policy)
    request = teachers.camera_request(options.policy)
    if options.task is None:
        raise ConfigError(f"{options.policy}: for which task? add --task, e.g. --task tabletop/PickCube")
    chosen = {name: value for name in ENVIRONMENT[1:] if (value := getattr(options, name)) is not None}
    config = configure(options.task, {"env": {"num_envs": 1, **chosen}}).env  # as built by `rpd train`
    env = envs.make(options.task, config, device, options.num_threads)
    spec = env.spec
    env.close()
    return teachers.make(options.policy, spec, device), spec, request
