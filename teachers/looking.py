"""Finding what a teacher looks at among the observations."""

from __future__ import annotations

from tensordict import TensorDict

from envs.errors import ConfigError


def image_key(obs: TensorDict, camera: str, teacher: str) -> str:
    """The key of a camera's images: the teacher's own where there are, else the student's.

    Args:
        obs: what is shown.
        camera: its name in the environment.
        teacher: its name, for messages.

    Raises:
        ConfigError: there are none.
    """
    names = [str(key) for key in obs.keys()]  # noqa: SIM118  (a TensorDict iterates over rows)
    key = next((key for key in (f"view.{camera}", f"image.{camera}") if key in names), None)
    if key is None:
        there = ", ".join(sorted(name for name in names if name.startswith(("view.", "image."))))
        raise ConfigError(
            f"teacher {teacher} looks through camera '{camera}', but is shown {there or 'no image'}: "
            f"add --env.teacher-cameras {camera}, or camera= to the teacher's name"
        )
    return key
