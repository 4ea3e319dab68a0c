"""Step: each camera's picture, next to and over a picture as in the training."""

from __future__ import annotations

import contextlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from rpd.deploy.cameras import SLOW, WATCHED, Camera, measured_rates
from rpd.deploy.commissioning.console import StepFailed, confirmed
from rpd.deploy.commissioning.station import SEED
from rpd.deploy.commissioning.walk import Walk
from rpd.deploy.robots.base import RobotDriver
from rpd.envs import registry as envs
from rpd.envs.control.arm import Array
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import config_for
from rpd.students.io.files import write_bytes

PANEL = 320
"""Smallest height of each of the three panels of a picture file, pixels."""


def check_cameras(walk: Walk) -> str:
    """Save a picture per camera, and ask whether it shows what the training showed."""
    station, console, spec = walk.station, walk.console, walk.station.spec
    names = [key.removeprefix("image.") for key in spec.cameras]
    if missing := [name for name in names if name not in station.config.cameras]:
        raise StepFailed(f"the policy uses camera '{missing[0]}': add it under cameras in the robot file")
    if not names:
        return "no camera is used"
    trained = _training_pictures(walk)
    for name in names:
        size = spec.observations[f"image.{name}"].shape[0]
        with station.connected() as robot:
            image, rate = _photograph(walk, robot, name, size)
        path = walk.folder / f"{name}.png"
        save(path, panels(image, trained.get(f"image.{name}")))
        console.show(f"{path}: {name} now{', as trained, and both overlaid' if trained else ''}; {rate:.1f} images per second")
        if f"image.{name}" in spec.viewpoints:
            console.show(f"as trained: {spec.viewpoints[f'image.{name}']}")
        nominal = station.config.cameras[name].rate
        if station.real and rate < SLOW * nominal:
            raise StepFailed(f"camera {name} delivers {rate:.1f} images per second, and cameras.{name}.rate is {nominal:g}")
        if not confirmed(console, f"Do the table and the robot's base in {path.name} lie on those of the training?"):
            raise StepFailed(f"move camera {name}, or measure it (step hand-eye), and run again")
    return ", ".join(names)


def panels(image: Array, trained: Array | None) -> Array:
    """Image [S, S, 3] uint8, and, if there is one, the image as trained and both overlaid: [H, W, 3] uint8, side by side."""
    parts = [image] if trained is None else [image, trained, ((image.astype(np.uint16) + trained) // 2).astype(np.uint8)]
    factor = -(-PANEL // image.shape[0])
    return np.concatenate([part.repeat(factor, axis=0).repeat(factor, axis=1) for part in parts], axis=1)


def save(path: Path, image: Array) -> None:
    """Write a PNG file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, iio.imwrite("<bytes>", image, extension=".png"))


def _photograph(walk: Walk, robot: RobotDriver, name: str, size: int) -> tuple[Array, float]:
    """Last image of a camera, [size, size, 3], and its measured rate, Hz."""
    station = walk.station
    address = station.camera_address(robot, name)
    with contextlib.closing(Camera(name, station.config.cameras[name], size, address)) as camera:
        rate = measured_rates({name: camera}, WATCHED)[name]
        return camera.read()[1], rate


def _training_pictures(walk: Walk) -> dict[str, Array]:
    """Images at the start of an episode of the training, by observation key; empty without the simulator."""
    spec = walk.station.spec
    try:
        env = envs.make(spec.task, config_for(spec).model_copy(update={"num_envs": 1}), num_threads=1)
    except ConfigError as error:
        walk.console.show(f"no pictures of the training: {error}")
        return {}
    with contextlib.closing(env):
        obs = env.reset(SEED)
        return {key: obs[key][0, ..., -3:].cpu().numpy() for key in spec.cameras}
