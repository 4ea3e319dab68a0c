"""ManiSkill's tasks by name: well-known ones without importing ManiSkill, any other from its registry."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

from rpd.envs import user_files
from rpd.envs.errors import ConfigError, missing_package
from rpd.envs.registry import TaskInfo

PREFIX = "maniskill/"

_PANDAS = ("panda", "panda_wristcam")
_THREE = (*_PANDAS, "fetch")

# Instructions as in RPD (arXiv 2503.05833); robots that each task supports, its default first, and the Panda also with a wrist
# camera.
_KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "PickCube-v1": ((*_THREE, "xarm6_robotiq", "so100", "widowxai"), "pick up the cube"),
    "PushCube-v1": (_THREE, "push the cube away from the robot base"),
    "PullCube-v1": (_THREE, "pull the cube towards the robot base"),
    "StackCube-v1": (("panda_wristcam", "panda", "fetch"), "stack the red cube on the green cube"),
    "LiftPegUpright-v1": (_THREE, "lift the peg upright"),
    "RollBall-v1": (_PANDAS, "push the ball"),
    "PokeCube-v1": (_THREE, "push the cube by using the blue tool"),
    "PullCubeTool-v1": (_THREE, "pull the cube by using the red tool"),
    "PegInsertionSide-v1": (("panda_wristcam",), "insert the peg from the side"),
    "PlugCharger-v1": (("panda_wristcam",), "plug the charger in"),
    "PushT-v1": (("panda_stick",), "align the T shape"),
}
_SPARSE = ("PlugCharger-v1",)
"""Tasks without a dense reward."""
_ROBOT_CAMERAS = {"panda_wristcam": ("hand_camera",), "fetch": ("fetch_hand", "fetch_head")}


def list_tasks() -> list[TaskInfo]:
    """Return the well-known tasks, without importing ManiSkill.

    Raises:
        ConfigError: ManiSkill is not installed.
    """
    _require()
    return [_known(name) for name in _KNOWN]


def find(task: str) -> TaskInfo:
    """Return any task registered with ManiSkill.

    Args:
        task: ``"maniskill/PickCube-v1"``; with a module, ``"maniskill/my_tasks:MyTask-v1"``, the module that registers it. The
            module is imported only if the user typed the name, see `rpd.envs.user_files`.

    Raises:
        ConfigError: ManiSkill is not installed, or the task does not exist; names the nearest.
    """
    _require()
    name = task.removeprefix(PREFIX)
    if name in _KNOWN:
        return _known(name)
    registered = load(name)
    supported = registered[uid(name)].cls.SUPPORTED_ROBOTS
    robots = importlib.import_module("mani_skill.agents.registration").REGISTERED_AGENTS
    # A task may list pairs of robots for bimanual work; those are fixed by the task and not offered as a choice.
    names = tuple(r for r in supported if isinstance(r, str)) if supported else tuple(sorted(robots))
    dense = "normalized_dense" in registered[uid(name)].cls.SUPPORTED_REWARD_MODES
    return TaskInfo(name=task, robots=names, cameras=(), instruction=instruction(name), reward="dense" if dense else "sparse")


def uid(name: str) -> str:
    """Return ManiSkill's own name of a task, without the module."""
    return name.rsplit(":", 1)[-1]


def same(one: str, other: str) -> bool:
    """Whether two names with the simulator's prefix refer to the same task: ManiSkill's own files omit the module."""
    both = one.startswith(PREFIX) and other.startswith(PREFIX)
    return one == other or (both and uid(one.removeprefix(PREFIX)) == uid(other.removeprefix(PREFIX)))


def instruction(name: str) -> str:
    """Return the language instruction of a task; for a task without one, its name in words."""
    if name in _KNOWN:
        return _KNOWN[name][1]
    words = re.sub(r"-v\d+$", "", uid(name))
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", words).replace("_", " ").replace("-", " ").lower()


def load(name: str) -> dict:
    """Import ManiSkill and return its registry.

    Raises:
        ConfigError: the task does not exist, or its module has not been imported.
    """
    importlib.import_module("mani_skill.envs")
    module = name.rpartition(":")[0]
    if module:
        user_files.require_module(module)
    registered = _registration().REGISTERED_ENVS
    if uid(name) not in registered:
        raise user_files.unknown("task", PREFIX + name, [PREFIX + known for known in registered])
    return registered


def check_assets(name: str, robot: str | None) -> None:
    """Raise if files of a task or robot are not downloaded (ManiSkill would prompt on stdin and exit).

    Raises:
        ConfigError: states the command that downloads them.
    """
    if os.environ.get("MS_SKIP_ASSET_DOWNLOAD_PROMPT") == "1":  # ManiSkill downloads without asking
        return
    assets = importlib.import_module("mani_skill.utils.assets")
    agents = importlib.import_module("mani_skill.agents.registration").REGISTERED_AGENTS
    for group in (uid(name), robot):
        if group is None or not assets.DATA_GROUPS.get(group):
            continue
        sources = assets.expand_data_group_into_individual_data_source_ids(group)
        there = all(assets.is_data_source_downloaded(source) for source in sources)
        if there and group in agents:  # an interrupted download leaves its folder behind
            there = Path(agents[group].agent_cls.urdf_path).exists()
        if not there:
            raise ConfigError(f"'{group}' needs files: python -m mani_skill.utils.download_asset {group}")


def _known(name: str) -> TaskInfo:
    robots, words = _KNOWN[name]
    cameras = ("render_camera", "base_camera", *(c for r in robots for c in _ROBOT_CAMERAS.get(r, ())))
    reward = "sparse" if name in _SPARSE else "dense"
    return TaskInfo(name=PREFIX + name, robots=robots, cameras=cameras, instruction=words, reward=reward)


def _registration() -> ModuleType:
    return importlib.import_module("mani_skill.utils.registration")


def _require() -> None:
    if importlib.util.find_spec("mani_skill") is None:
        raise missing_package("simulator maniskill", "mani-skill", "maniskill")
