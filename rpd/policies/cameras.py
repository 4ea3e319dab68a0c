"""Configure the teacher-only cameras of an environment."""

from __future__ import annotations

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.teachers import registry as teachers


def with_teacher_cameras(config: EnvConfig, *names: str | None) -> EnvConfig:
    """Return the configuration with the cameras that teachers request; unchanged if it already has teacher cameras.

    Args:
        config: the environment.
        names: references of teachers, see `rpd.teachers.registry.make`; None is skipped.

    Raises:
        ConfigError: teachers request images of different sizes, or see `rpd.teachers.registry.camera_request`.
    """
    if config.teacher_cameras:
        return config
    requests = {name: request for name in names if name is not None and (request := teachers.camera_request(name)).cameras}
    if not requests:
        return config
    cameras = tuple(dict.fromkeys(camera for request in requests.values() for camera in request.cameras))
    sizes = {name: request.image_size or config.image_size for name, request in requests.items()}
    if len(set(sizes.values())) > 1:
        requested = ", ".join(
            f"{name}: {f'{size} pixels' if size else 'size of the student images'}" for name, size in sizes.items()
        )
        raise ConfigError(
            f"teachers request images of different sizes ({requested}), and an environment renders one size: set it for all "
            f"with --env.teacher-image-size and --env.teacher-cameras {' '.join(cameras)}"
        )
    return config.model_copy(update={"teacher_cameras": cameras, "teacher_image_size": next(iter(sizes.values()))})
