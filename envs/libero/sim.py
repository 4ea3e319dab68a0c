"""A LIBERO environment in a worker process: one task, or several tasks of a suite in turn."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rpd.envs.backends.protocol import Factory, Outcome
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.libero import suites, tasks
from rpd.envs.libero.cameras import Camera, viewpoints
from rpd.envs.libero.scene import RELATIVE, dense
from rpd.envs.libero.world import World
from rpd.envs.privileged_state import ManipulationState
from rpd.envs.rendering import opengl
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec, Viewpoint

SIZE = 128
"""Size of an observed image, pixels, as in LIBERO's demonstrations."""
RENDER_SIZE = 256

ACTION = ActionSpec(
    names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "open"),
    scale=(0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0),
    discrete=(False,) * 6 + (True,),
)
"""OSC_POSE. LIBERO's own gripper action opens at -1; here +1 opens, as in all environments."""

_PROPRIO = "robot0_proprio-state"


def factory(name: str, config: dict[str, Any]) -> Factory:
    """Compile tasks; returns a factory that builds environments of them.

    Args:
        name: name of one or several tasks, see `rpd.envs.libero.tasks.resolve`.
        config: fields of `rpd.envs.config.EnvConfig`.
    """
    built = EnvConfig(**config)
    worlds, cameras = [World(task, built.settled_with) for task in tasks.resolve(name)], Cameras(built)
    return lambda: Sim(name, worlds, built, cameras)


class Cameras:
    """Cameras of the worlds of a process, created on first use."""

    def __init__(self, config: EnvConfig) -> None:
        self.rendering = config.rendering or "stock"
        self.size = config.image_size or SIZE
        self.view_size = config.teacher_image_size or self.size
        self._largest = max(self.size, self.view_size, RENDER_SIZE)
        self._made: dict[World, tuple[Camera, mujoco.MjData]] = {}

    def render(self, world: World, slot: Any, names: list[str], size: int) -> dict[str, Tensor]:
        """Render the last observation of a slot: uint8 [1, size, size, 3] by camera."""
        if world not in self._made:
            camera = Camera(world.model, opengl.platform(), self.rendering, self._largest)
            self._made[world] = camera, mujoco.MjData(world.model)
        camera, data = self._made[world]
        world.seen(slot, data)
        return {name: torch.from_numpy(camera.render(data, name, size).copy())[None] for name in names}


class Sim:
    """See `rpd.envs.backends.protocol.Simulation`. The seed of an episode selects its task and initial state.

    With obs_mode state, ``state`` holds LIBERO's own proprioception and object poses, and `ManipulationState.relative` if the
    task has a privileged state; with images, proprioception alone. With several tasks, a one-hot task index is appended, and
    the poses of tasks with fewer objects are padded.

    Args:
        name: name of the task or tasks.
        worlds: the tasks, at least one.
        config: options of the environment.
        cameras: cameras of the process.
    """

    render_shape = (RENDER_SIZE, RENDER_SIZE, 3)
    exact_resume = True
    remarks: tuple[str, ...] = ()

    def __init__(self, name: str, worlds: list[World], config: EnvConfig, cameras: Cameras) -> None:
        self._name, self._worlds, self._config, self._cameras = name, worlds, config, cameras
        self._images = list(config.cameras or tasks.CAMERAS[:1]) if config.obs_mode == "rgb" else []
        same = cameras.size == cameras.view_size
        self._views = [name for name in config.teacher_cameras if not (same and name in self._images)]
        self._state_size = max(world.moment_size for world in worlds)
        self._world = worlds[0]
        self._slot = self._world.slot()
        self.spec = self._describe()
        self._world.reset(self._slot, 0)

    @property
    def view_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (H, W, 3) of each image that `teacher_images` returns, by key."""
        size = self._cameras.view_size
        return {f"view.{name}": (size, size, 3) for name in self._views}

    def step(self, action: Tensor) -> Outcome:
        """Apply an action [1, 7] for one control step."""
        theirs = action[0].double().numpy().copy()
        theirs[6] = -theirs[6]
        success = torch.tensor([self._world.step(self._slot, theirs)])
        reward = success.float() if self.spec.reward == "sparse" else torch.where(success, 0.0, dense(self._scene) - 1)
        return Outcome(self.observe(), reward, success)

    def reset(self, seed: int, exact: bool = False) -> dict[str, Tensor]:
        """Start the episode of a seed; always exact, because the full physics state is set."""
        world = self._worlds[seed % len(self._worlds)]
        if world is not self._world:
            self._world, self._slot = world, world.slot()
        world.reset(self._slot, seed // len(self._worlds) % len(world.init_states))
        return self.observe()

    def observe(self) -> dict[str, Tensor]:
        """Observation sampled during the last control step."""
        obs = self._slot.obs
        parts = [obs[_PROPRIO]]
        if self._config.obs_mode == "state":
            objects = obs["object-state"]
            parts += [objects, np.zeros(self._num_object_entries - len(objects))]
            if self.spec.scene:
                parts.append(ManipulationState.relative(self._scene)[0].numpy())
        if len(self._worlds) > 1:
            parts.append(np.eye(len(self._worlds))[self._worlds.index(self._world)])
        out = {"state": torch.from_numpy(np.concatenate(parts).astype(np.float32))[None]}
        if self.spec.scene:
            out["scene"] = self._scene
        if self._images:
            images = self._cameras.render(self._world, self._slot, self._images, self._cameras.size)
            out |= {f"image.{name}": image for name, image in images.items()}
        return out

    def teacher_images(self) -> dict[str, Tensor]:
        """Render the teacher-only cameras."""
        if not self._views:
            return {}
        images = self._cameras.render(self._world, self._slot, self._views, self._cameras.view_size)
        return {f"view.{name}": image for name, image in images.items()}

    def render(self) -> Tensor:
        """Render LIBERO's main camera."""
        return self._cameras.render(self._world, self._slot, ["agentview"], RENDER_SIZE)["agentview"]

    def get_state(self) -> Tensor:
        """State at the time of the observation, [1, D] float64, padded to the longest of the tasks."""
        assert self._slot.moment is not None
        vector = torch.from_numpy(self._slot.moment.to_vector())
        return torch.nn.functional.pad(vector, (0, self._state_size - len(vector)))[None]

    def set_state(self, state: Tensor) -> None:
        """Restore `get_state`."""
        self._world.restore(self._slot, self._world.moment(state[0].numpy()))

    @property
    def _scene(self) -> Tensor:
        return torch.from_numpy(self._slot.scene)[None]

    def _state_names(self, scene: bool) -> list[str]:
        names = self._world.names("robot0_proprio")
        if self._config.obs_mode == "state":
            objects = [world.names("object") for world in self._worlds]
            longest = max(objects, key=len)
            names += longest if all(o == longest for o in objects) else [f"object.{i}" for i in range(len(longest))]
            self._num_object_entries = len(longest)
            names += [f"scene.{name}" for name in RELATIVE] if scene else []
        return names + ([f"task.{i}" for i in range(len(self._worlds))] if len(self._worlds) > 1 else [])

    def _describe(self) -> EnvSpec:
        size = self._cameras.size
        scene = all(world.roles for world in self._worlds)
        if self._config.reward == "dense" and not scene:
            raise ConfigError(f"{self._name} has no dense reward: only tasks that move one object to one place have one")
        names = self._state_names(scene)
        return EnvSpec(
            task=self._name,
            embodiment=_embodiment(self._world.model),
            observations={
                "state": ObsSpec(shape=(len(names),), dtype="float32"),
                **{f"image.{name}": ObsSpec(shape=(size, size, 3), dtype="uint8") for name in self._images},
            },
            state_names=tuple(names),
            state_scaled=tuple(name.startswith(("scene.", "task.")) for name in names),
            action=ACTION,
            control_hz=20,
            max_episode_steps=self._config.max_episode_steps or suites.limit(self._world.task.suite),
            reward=self._config.reward or "sparse",
            scene=scene,
            rendering=self._cameras.rendering,
            settled_with=self._worlds[0].settled_with,  # the same for all tasks of a suite
            viewpoints=self._viewpoints(),
        )

    def _viewpoints(self) -> dict[str, Viewpoint]:
        """Cameras by observation key, but those whose poses differ between tasks."""
        found = [viewpoints(world.model, self._images) for world in self._worlds]
        return {f"image.{name}": view for name, view in found[0].items() if all(other[name] == view for other in found)}


def _embodiment(model: mujoco.MjModel) -> Embodiment:
    """Franka Panda with its hand, on a pedestal or on the floor."""
    limits = {f"joint{i}": model.joint(f"robot0_joint{i}").range for i in range(1, 8)}
    descriptor = {"reach": 0.855, "gripper_opening": 0.08}
    for name, (low, high) in limits.items():
        descriptor |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return Embodiment(name="panda", num_joints=7, descriptor=descriptor)
