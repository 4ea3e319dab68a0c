"""Record the signatures of the robot SDK functions that the drivers use, for the fakes in tests/rpd/deploy/sdk.

python scripts/signatures.py FOLDER writes them again from wheels: pip download --no-deps -d FOLDER ur-rtde franky-control ...
Removed functions are left out, and the contract test of their driver fails.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "tests/rpd/deploy/sdk"
USES: dict[str, dict[str, tuple[str, str]]] = {
    # by driver: what a driver imports it as -> the file of the wheel with its source ("" : the docstrings of the module), names
    "ur": {
        "rtde_control.RTDEControlInterface": (
            "",
            "__init__ servoJ servoStop stopJ triggerProtectiveStop stopScript disconnect setWatchdog",
        ),
        "rtde_receive.RTDEReceiveInterface": (
            "",
            "__init__ isConnected getSafetyStatusBits getRuntimeState getActualQ getActualQd getActualTCPForce getTimestamp "
            "disconnect",
        ),
    },
    "franka": {
        "franky.Robot": ("franky/_franky.pyi:_RobotInternal", "__init__ recover_from_errors move stop join_motion state"),
        "franky.Gripper": ("franky/_franky.pyi", "__init__ max_width width move_async grasp_async"),
        "franky.JointMotion": ("franky/_franky.pyi", "__init__"),
        "franky.JointStopMotion": ("franky/_franky.pyi", "__init__"),
        "franky.RobotMode": ("franky/_franky.pyi", "Reflex UserStopped Guiding Idle Move"),
        "franky.RobotState": ("franky/_franky.pyi", "q dq O_F_ext_hat_K robot_mode time"),
        "franky.Exception": ("franky/_franky.pyi", ""),
        "franky.ControlException": ("franky/_franky.pyi", ""),
        "franky.CommandException": ("franky/_franky.pyi", ""),
        "franky.NetworkException": ("franky/_franky.pyi", ""),
    },
    "xarm": {
        "xarm.wrapper.XArmAPI": (
            "xarm/wrapper/xarm_api.py",
            "__init__ axis mode error_code currents register_report_callback set_timeout get_state get_err_warn_code "
            "motion_enable set_mode set_state set_servo_angle_j get_joint_states "
            "set_gripper_enable set_gripper_mode set_gripper_speed set_gripper_position get_gripper_position disconnect",
        ),
    },
    "lerobot": {
        "lerobot.robots.so_follower.SO101Follower": (
            "lerobot/robots/so_follower/so_follower.py:SOFollower",
            "connect is_connected is_calibrated get_observation send_action disconnect",
        ),
        "lerobot.robots.so_follower.SO101FollowerConfig": (
            "lerobot/robots/so_follower/config_so_follower.py:SOFollowerConfig",
            "port disable_torque_on_disconnect max_relative_target cameras use_degrees",
        ),
        "lerobot.robots.config.RobotConfig": ("lerobot/robots/config.py", "id calibration_dir"),
        "lerobot.robots.utils.make_robot_from_config": ("lerobot/robots/utils.py", ""),
        "lerobot.utils.import_utils.register_third_party_plugins": ("lerobot/utils/import_utils.py", ""),
    },
}
PACKAGES = {"ur": "ur_rtde", "franka": "franky_control", "xarm": "xarm_python_sdk", "lerobot": "lerobot"}


def main(folder: Path) -> None:
    """Write one file per driver."""
    for driver, package in PACKAGES.items():
        (wheel,) = folder.glob(f"{package}-*.whl")
        with tempfile.TemporaryDirectory() as unpacked:
            zipfile.ZipFile(wheel).extractall(unpacked)
            sys.path.insert(0, unpacked)
            found = {name: _members(Path(unpacked), name, *use) for name, use in USES[driver].items()}
            sys.path.remove(unpacked)
        known = {name: members for name, members in found.items() if members is not None}
        head = {"package": package.replace("_", "-"), "version": wheel.name.split("-")[1]}
        (OUT / f"{driver}.json").write_text(json.dumps({**head, "offers": known}, indent=1) + "\n")


def _members(root: Path, name: str, source: str, wanted: str) -> Any:
    """Signatures by name, a function's own signature, or None where there is nothing of that name."""
    module, _, own = name.rpartition(".")
    if not source:
        offered = getattr(importlib.import_module(module), own, None)
        return offered and {n: _documented(getattr(offered, n)) for n in wanted.split() if hasattr(offered, n)}
    path, _, alias = source.partition(":")
    if not (root / path).exists():
        return None
    for node in ast.walk(ast.parse((root / path).read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == own:
            return _signature(node.args)
        if isinstance(node, ast.ClassDef) and node.name == (alias or own):
            return {n: s for n, s in map(_member, node.body) if n in wanted.split()}
    return None


def _member(node: ast.stmt) -> tuple[str, str]:
    if isinstance(node, ast.FunctionDef):
        decorators = [ast.unparse(d) for d in node.decorator_list]
        return node.name, "property" if "property" in decorators else _signature(node.args)
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target), "attribute"
    return "", ""


def _signature(arguments: ast.arguments) -> str:
    """Without types, and defaults as ``...``: what a call is checked against."""
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            argument.annotation = None
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [d and ast.Constant(...) for d in arguments.kw_defaults]
    return f"({ast.unparse(arguments)})"


def _documented(method: Any) -> str:
    """From the first line of a pybind11 docstring: ``servoStop(self: X, a: float = 10.0) -> bool``."""
    inside = re.match(r"\w+\((.*)\) ->", method.__doc__.split("\n")[0]).group(1)  # type: ignore[union-attr]
    parts = re.split(r",\s*(?=\w+:)", inside)
    return f"({', '.join(p.split(':')[0] + ('=...' if ' = ' in p else '') for p in parts)})"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
