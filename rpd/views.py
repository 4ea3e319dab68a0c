"""What a teacher must see, asked of the environment."""

from __future__ import annotations

from envs.base import EnvConfig
from teachers import registry as teachers


def shown_to(teacher: str | None, config: EnvConfig) -> EnvConfig:
    """Add the cameras that a teacher looks through, unless `config` already names some.

    Args:
        teacher: its name, see `teachers.registry.make`; None: nobody looks.
        config: the environment without them.

    Raises:
        ConfigError: see `teachers.registry.needs`.
    """
    if teacher is None or config.teacher_cameras:
        return config
    views = teachers.needs(teacher)
    if not views.cameras:
        return config
    return config.model_copy(update={"teacher_cameras": views.cameras, "teacher_image_size": views.image_size})
