"""Progress of a commissioning, in a file: steps that are done are not repeated."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rpd.core.files import write_json
from rpd.deploy.config import RobotConfig
from rpd.envs.errors import ConfigError

FILE = "progress.json"
SCHEMA = 1


@dataclass
class Progress:
    """Steps that are done, and the robot file as they leave it."""

    path: Path
    robot: str
    """Name of the robot file with which the commissioning began."""
    config: RobotConfig
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Result of each step: ``summary``, ``when``, and what was measured."""

    @classmethod
    def load(cls, folder: Path, robot: str, config: RobotConfig) -> Progress:
        """Read the progress of a folder, or start a new one.

        Args:
            folder: folder of the commissioning.
            robot: name of the robot file.
            config: its content, for a new commissioning.

        Raises:
            ConfigError: the folder is of another robot, or its file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls(path, robot, config)
        try:
            stored = json.loads(path.read_text())
            if stored["schema"] != SCHEMA:
                raise ConfigError(f"{path}: schema {stored['schema']}, and this version has {SCHEMA}: name another --folder")
            if stored["robot"] != robot:
                raise ConfigError(f"{path} is of robot {stored['robot']}, not of {robot}: name another --folder")
            return cls(path, robot, RobotConfig.model_validate(stored["config"]), dict(stored["steps"]))
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{path}: damaged: {reason}: delete it to begin again") from None

    def finish(self, step: str, summary: str, config: RobotConfig, **measured: Any) -> None:
        """Note that a step is done, and write the file.

        Args:
            step: name of the step.
            summary: its result, one line.
            config: config of the robot after the step.
            measured: JSON values.
        """
        self.config = config
        self.done[step] = {"summary": summary, "when": time.strftime("%Y-%m-%d %H:%M:%S"), **measured}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"schema": SCHEMA, "robot": self.robot, "config": config.model_dump(mode="json"), "steps": self.done}
        write_json(self.path, content)
