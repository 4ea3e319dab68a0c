"""Drivers in a user's own Python file, named ``FILE.py:Class``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpd.deploy.config import RobotConfig
from rpd.deploy.robots.base import RobotDriver, RobotSpec
from rpd.deploy.robots.driver_names import SEPARATOR
from rpd.envs import user_files
from rpd.envs.errors import ConfigError

METHODS = ("connect", "read", "command", "stop", "close")


def build(name: str, config: RobotConfig, connection: Mapping[str, Any]) -> RobotDriver:
    """Import the file, and make a driver, unconnected: ``Class(config, **connection)``.

    Args:
        name: ``FILE.py:Class``.
        config: config of the robot.
        connection: further arguments of the class.

    Raises:
        ConfigError: no such file or class, a class without the methods of `RobotDriver`, or its constructor fails.
    """
    made = _load(name)
    try:
        driver = made(config, **connection)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"driver {name}: its constructor failed: {type(error).__name__}: {error}") from error
    if not isinstance(getattr(driver, "spec", None), RobotSpec):
        raise ConfigError(f"driver {name}: its constructor has to set self.spec, a rpd.deploy.robots.base.RobotSpec")
    return driver


def _load(name: str) -> Any:
    """Class of a user's file.

    Raises:
        ConfigError: see `build`.
    """
    stem, _, class_name = name.rpartition(SEPARATOR)
    file = Path(f"{stem}.py").expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"driver {name}: there is no file {file}")
    user_files.load([file])
    made = getattr(sys.modules[file.stem], class_name, None)
    if not isinstance(made, type):
        raise ConfigError(f"driver {name}: {file.name} has no class '{class_name}'")
    missing = [member for member in (*METHODS, "resets") if not hasattr(made, member)]
    if missing:
        raise ConfigError(f"driver {name}: {class_name} lacks {', '.join(missing)}: see rpd.deploy.robots.base.RobotDriver")
    return made
