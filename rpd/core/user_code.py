"""Import user code named on the command line: ``--import``, a task with its module, or the script that is the command."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpd.envs import user_files
from rpd.envs.errors import ConfigError

OPTION = "--import"
_TYPED = re.compile(r"(?:maniskill/|gym/)([\w.]+):|gym/(\S+\.py):")
"""Module or file of a task, e.g. ``maniskill/my_tasks:MyTask-v1``, ``gym/folder/file.py:make_env``."""


def take_imports(words: Sequence[str]) -> list[str]:
    """Import the files named on a command line and by the parent process, and return the other words.

    Raises:
        ConfigError: see `rpd.envs.user_files.load`; or `OPTION` has no value.
    """
    user_files.inherit()
    rest, files = list[str](), list[str]()
    following = iter(words)
    for word in following:
        option, equals, value = word.partition("=")
        if option != OPTION:
            rest.append(word)
        elif name := value if equals else next(following, ""):
            files.append(name)
        else:
            raise ConfigError(f"{OPTION}: which file? e.g. {OPTION} my_tasks.py")
    user_files.load(files)
    for module, file in (found for word in rest for found in _TYPED.findall(word)):
        if file or module.endswith(".py"):
            user_files.load([file or module])
        else:
            user_files.load_module(module)
    return rest


def record_imports(run: Path) -> None:
    """Record which files a run imported, for the message about a name that is missing without them."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # errors are reported by the reader of env.json
        user_files.record(json.loads((run / "env.json").read_text()).get("imports", ()), str(run))


def remember_script(caller: dict[str, Any]) -> None:
    """Make child processes import the user's script that called the ``rpd`` command.

    Args:
        caller: global names of the module that calls `rpd.cli.main.main`.
    """
    file = Path(caller.get("__file__", "")).resolve()
    ours = Path(__file__).resolve().parents[1]
    if caller.get("__name__") == "__main__" and file.suffix == ".py" and ours not in file.parents:
        user_files.remember(str(file))
