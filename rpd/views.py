"""What policies and teachers must see, asked of the environment."""

from __future__ import annotations

from envs.base import EnvConfig
from envs.errors import ConfigError
from envs.specs import EnvSpec
from teachers import registry as teachers


def seen_by(config: EnvConfig, spec: EnvSpec) -> EnvConfig:
    """Add the cameras that a policy looks through, as the spec saved with it has them."""
    cameras = tuple(key.removeprefix("image.") for key in spec.observations if key.startswith("image."))
    if not cameras:
        return config
    size = spec.observations[f"image.{cameras[0]}"].shape[0]
    return config.model_copy(update={"obs": "image", "cameras": cameras, "image_size": size, "frames": spec.frames})


def shown_to(config: EnvConfig, *watchers: str | None) -> EnvConfig:
    """Add the cameras that teachers look through, unless `config` already names some.

    Args:
        config: the environment without them.
        watchers: names of teachers, see `teachers.registry.make`; None: nobody.

    Raises:
        ConfigError: two teachers want images of different sizes, or see `teachers.registry.needs`.
    """
    if config.teacher_cameras:
        return config
    looking = {name: views for name in watchers if name is not None and (views := teachers.needs(name)).cameras}
    if not looking:
        return config
    cameras = tuple(dict.fromkeys(camera for views in looking.values() for camera in views.cameras))
    sizes = {name: views.image_size or config.image_size for name, views in looking.items()}
    if len(set(sizes.values())) > 1:
        wanted = ", ".join(f"{name} {f'of {size} pixels' if size else 'as the student sees'}" for name, size in sizes.items())
        raise ConfigError(
            f"teachers want images of different sizes ({wanted}), and an environment shows one: choose it for all with "
            f"--env.teacher-image-size and --env.teacher-cameras {' '.join(cameras)}"
        )
    return config.model_copy(update={"teacher_cameras": cameras, "teacher_image_size": next(iter(sizes.values()))})
