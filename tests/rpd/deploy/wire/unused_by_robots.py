"""Placeholders for packages that LeRobot's robots import and do not use: its data sets, and its image processing.

Installed by scripts/lerobot_venv.sh into .venv-lerobot only. Calling anything of a placeholder is an error that names it.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("datasets", "lerobot.datasets", "lerobot.processor.hil_processor", "lerobot.processor.tokenizer_processor")


class Placeholder(Loader, MetaPathFinder):
    """Finds `UNUSED` and their submodules, and makes empty modules whose members cannot be called."""

    def find_spec(self, name, path=None, target=None):
        if any(name == unused or name.startswith(f"{unused}.") for unused in UNUSED):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module: ModuleType) -> None:
        def member(name: str):
            if name.startswith("__"):
                raise AttributeError(name)

            def unusable(*_, **__):
                raise NotImplementedError(f"{module.__name__}.{name} is a placeholder in .venv-lerobot")

            return type(name, (), {"__new__": unusable})

        module.__getattr__ = member


sys.meta_path.insert(0, Placeholder())
