"""Step: hand-eye calibration of each camera with a ChArUco board."""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

import numpy as np

from rpd.deploy.cameras import Camera
from rpd.deploy.commissioning.charuco import Board, Calibration, View
from rpd.deploy.commissioning.console import StepFailed, choose, confirm_motion, confirmed
from rpd.deploy.commissioning.pictures import save
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.config import RobotConfig
from rpd.deploy.slow_motion import HeldBack, SlowMotion
from rpd.deploy.viewpoints import difference
from rpd.envs.control.arm import Arm, Array
from rpd.envs.errors import ConfigError
from rpd.envs.robots import ROBOTS
from rpd.envs.specs import Viewpoint

VIEWS = 14
"""Number of postures."""
TURN = 0.25
"""Largest turn of a joint from the first posture, rad."""
GOOD = 0.005
"""Largest spread of the board's position between views, m."""
PRINT = 12_000
"""Resolution of the drawing of a board, pixels per meter (300 dpi)."""
POINTS_TO_BOARD = {
    True: "Lay the board on the table in the middle of the camera's view; it must not move. The camera is on the hand.",
    False: "Let the gripper hold the board so that the camera sees it; it must not slip. The camera stands still.",
}


class _Eye(NamedTuple):
    """A camera, and the arm that moves it or the board."""

    camera: Camera
    arm: Arm
    motion: SlowMotion


def calibrate_cameras(walk: Walk) -> str:
    """Measure the cameras of the policy, and write their viewpoints into the robot file."""
    spec, board, results = walk.station.spec, None, []
    for name in (key.removeprefix("image.") for key in spec.cameras):
        ways = {"measure": "with a ChArUco board", "skip": "keep its place unmeasured"}
        if choose(walk.console, f"Pose and field of view of camera {name}?", ways) == "skip":
            results.append(f"{name} not measured")
            continue
        board = board or Board(walk.options.board)
        results.append(f"{name} {_calibrate(walk, name, board)}")
    return ", ".join(results) or "no camera is used"


def with_viewpoint(config: RobotConfig, name: str, viewpoint: Viewpoint) -> RobotConfig:
    """Set the measured viewpoint of a camera."""
    camera = config.cameras[name].model_copy(update={"viewpoint": viewpoint})
    return config.model_copy(update={"cameras": {**config.cameras, name: camera}})


def postures(start: Array, count: int) -> list[Array]:
    """Postures [n] around a first one: every joint turns, the last three most, in directions that differ from view to view."""
    weights = np.linspace(0.3, 1.0, len(start)).clip(max=1.0)
    found = [start]
    for view in range(1, count):
        phase = 2 * np.pi * view * np.sqrt(np.arange(2, len(start) + 2))  # irrational: no two joints turn alike
        found.append(start + TURN * weights * np.sin(phase))
    return found


def _calibrate(walk: Walk, name: str, board: Board) -> str:
    """Calibrate one camera; returns a summary."""
    station, console = walk.station, walk.console
    trained = station.spec.viewpoints.get(f"image.{name}")
    if trained is None:
        mounted = choose(console, f"Where is camera {name}?", {"hand": "", "table": "it stands still"}) == "hand"
    else:
        mounted = trained.mounted
    drawing = walk.folder / "board.png"
    save(drawing, board.drawing(PRINT))
    console.show(f"{drawing}: print it at {100 * board.size[0]:.1f} x {100 * board.size[1]:.1f} cm, glued to something flat.")
    console.show(POINTS_TO_BOARD[mounted])
    confirm_motion(console, f"The arm moves to {VIEWS} postures, each joint by at most {np.degrees(TURN):.0f}°.")
    config = station.config.cameras[name]
    views, size = _views(walk, name, board, min(config.width, config.height))
    try:
        found = board.calibrate(views, size, mounted)
    except ConfigError as error:
        raise StepFailed(f"camera {name}: {error}") from None
    _show(walk, name, found, len(views), trained)
    if found.spread > GOOD:
        raise StepFailed(
            f"camera {name}: the board seems to move by {1000 * found.spread:.1f} mm: is it flat, fixed, and measured?"
        )
    if not confirmed(console, f"Write this viewpoint of camera {name} into the robot file?"):
        raise StepFailed(f"camera {name}: not confirmed")
    station.config = with_viewpoint(station.config, name, found.viewpoint)
    return f"measured to {1000 * found.spread:.1f} mm and {np.degrees(found.turn):.2f}°"


def _views(walk: Walk, name: str, board: Board, size: int) -> tuple[list[View], int]:
    """Views of the board, from all postures that the limits allow and from which it is seen; and the size of the pictures."""
    station, console, views = walk.station, walk.console, list[View]()
    arm = Arm(ROBOTS[station.config.kinematics])
    with station.moving() as (robot, motion):
        address = station.camera_address(robot, name)
        with contextlib.closing(Camera(name, station.config.cameras[name], size, address)) as camera:
            eye, start = _Eye(camera, arm, motion), motion.posture
            for number, goal in enumerate(postures(start, VIEWS), 1):
                try:
                    motion.to(goal)
                except HeldBack as held:
                    console.show(f"view {number}: {held}")
                    continue
                image = _fresh(eye)
                save(walk.folder / f"{name}-view-{number:02d}.png", image)
                seen = board.detect(image)
                console.show(f"view {number}: {'the board is not seen' if seen is None else f'{len(seen[0])} corners'}")
                if seen is not None:
                    position, rotation = arm.forward(robot.read().joints[None])
                    views.append(View(*seen, (position[0], rotation[0])))
            motion.to(start)
    return views, size


def _fresh(eye: _Eye) -> Array:
    """Image that was taken after the arm arrived; the arm is held meanwhile."""
    arrived = time.monotonic()
    while True:
        taken, image = eye.camera.read()
        if taken > arrived:
            return image
        eye.motion.to(eye.motion.posture, settle=0.05)


def _show(walk: Walk, name: str, found: Calibration, count: int, trained: Viewpoint | None) -> None:
    console = walk.console
    console.show(f"camera {name}, from {count} views: {found.viewpoint}")
    console.show(
        f"corners within {found.pixels:.2f} pixels; the board agrees between views to {1000 * found.spread:.1f} mm, "
        f"{np.degrees(found.turn):.2f}°"
    )
    if trained is not None:
        far, turn, fov = difference(found.viewpoint, trained)
        turned, wider = np.degrees(turn), np.degrees(fov)
        console.show(f"from the viewpoint as trained: {1000 * far:.0f} mm, {turned:.1f}°, field of view {wider:+.1f}°")
