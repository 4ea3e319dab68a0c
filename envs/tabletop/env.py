"""N tabletop environments stepped as a batch on MuJoCo's C++ thread pool."""

from __future__ import annotations

import os

import numpy as np
import torch
from mjbatch import Batch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.backends.numpy_env import ArrayEnv, episode_arrays, finite_action
from rpd.envs.config import EnvConfig
from rpd.envs.control import kinematics
from rpd.envs.control.ee_delta import action_spec
from rpd.envs.control.limit_config import limits_of
from rpd.envs.control.state_names import SCALED, state_names
from rpd.envs.errors import NonFiniteError
from rpd.envs.robots import ROBOTS
from rpd.envs.simulator_options import IDEAL
from rpd.envs.specs import EnvSpec, ObsSpec
from rpd.envs.tabletop import domain_randomization, episode_start, obstacles, payload
from rpd.envs.tabletop.arm_control import ArmControl
from rpd.envs.tabletop.camera import Camera, Renderer
from rpd.envs.tabletop.camera_poses import cameras, people_camera
from rpd.envs.tabletop.conditions import Conditions
from rpd.envs.tabletop.mjcf import SUBSTEPS, TIMESTEP, build
from rpd.envs.tabletop.observations import Readings
from rpd.envs.tabletop.sensing import Sensing
from rpd.envs.tabletop.tasks import COLORS, TASKS
from rpd.envs.vector_env import Step

MARGIN = 0.002  # m: an arm nearer than this to the table, an obstacle or itself counts as a violation
DEFAULT_CAMERAS, DEFAULT_IMAGE_SIZE = ("front",), 64
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)


class TabletopEnv(ArrayEnv):
    """A task with a robot, N times. See `rpd.envs.vector_env.VectorEnv` for the interface.

    Position servos track the goals of `ArmControl` for five substeps of 10 ms.
    """

    def __init__(self, task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> None:
        """Build from a validated task name; see `rpd.envs.registry.make` for the arguments."""
        self.num_envs, self.device = config.num_envs, device
        self.task = TASKS[task.split("/", 1)[1]]
        self.robot = ROBOTS[config.robot or "panda"]
        limits = limits_of(config.limits, self.robot)
        randomized = domain_randomization.chosen(config.domain_randomization, config.limits)
        self._world = build(self.task, self.robot, config.limits != IDEAL, limits.obstacles)
        obstacles.check(limits, self._world, self.task, self.robot)
        payload.check(self._world, self.robot, randomized)
        model = self._world.model
        threads = min(num_threads or os.cpu_count() or 1, self.num_envs)
        self._batch = Batch(model, self.num_envs, num_threads=threads, forward=True)
        self._conditions = Conditions(self._batch, self._world, randomized)
        self._now = Readings(self._batch, self._world, self.robot)
        self._control = ArmControl(self.robot, self._world, self._batch, self._now, limits, config)
        self._physics = self._batch.bind("state")
        self._config = config
        size = config.image_size or DEFAULT_IMAGE_SIZE
        views = cameras(self.robot)
        observed = (config.cameras or DEFAULT_CAMERAS) if config.obs_mode == "rgb" else ()
        self._renderers = {f"image.{name}": Renderer(self._batch, views[name], size) for name in observed}
        view_size = config.teacher_image_size or size
        self._views = {
            f"view.{name}": Renderer(self._batch, views[name], view_size)
            for name in config.teacher_cameras
            if not (name in observed and view_size == size)
        }
        self._people: dict[int, Renderer] = {}
        self.spec = self._make_spec(task, config, size)
        self._sensing = Sensing(randomized, self.spec.state_names, dict.fromkeys(self._renderers, size))
        self._state = self._initial_state()
        self._instructions: list[str] = []

    def _initial_state(self) -> dict[str, np.ndarray]:
        """State beyond the simulation's own, by name; saved by `state_dict`."""
        n = self.num_envs
        return {
            **episode_arrays(n),
            **self._control.arrays(),
            **self._conditions.arrays(),
            **self._sensing.arrays(n),
            "violated": np.zeros(n, dtype=bool),  # in this episode
            "pending": np.zeros((n, self.robot.delay + domain_randomization.MAX_DELAY, 7)),  # commands not yet applied
            "colors": np.tile(self._world.model.geom_rgba[:, :3].astype(np.float32), (n, 1, 1)),
            "names": np.zeros((n, 3), dtype=np.int64),  # phrase, object color, target color
        }

    def _make_spec(self, task: str, config: EnvConfig, size: int) -> EnvSpec:
        robot = self.robot
        names = state_names(robot, config.obs_mode == "state", self.task.aerial, self.task.oriented)
        images = {key: ObsSpec(shape=(size, size, 3), dtype="uint8") for key in self._renderers}
        return EnvSpec(
            task=task,
            embodiment=robot.embodiment(),
            observations={"state": ObsSpec(shape=(len(names),), dtype="float32"), **images},
            state_names=names,
            state_scaled=tuple(name.startswith(SCALED) for name in names),
            action=action_spec(robot),
            control_hz=1 / (TIMESTEP * SUBSTEPS),
            max_episode_steps=config.max_episode_steps or round(self.task.max_steps * robot.patience),
            reward=config.reward,
            scene=True,
            oriented=self.task.oriented,
            viewpoints={key: renderer.camera.viewpoint for key, renderer in self._renderers.items()},
        )

    @property
    def instructions(self) -> list[str]:
        """See `VectorEnv.instructions`."""
        if not self._instructions:
            self._instructions = [episode_start.instruction(self.task, names) for names in self._state["names"]]
        return self._instructions

    # Episodes -----------------------------------------------------------------------------------------------------

    def _begin(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Start the episodes of `seeds` [K] in the environments `ids` [K]."""
        self._clear(ids, seeds)
        s, now, world = self._state, self._now, self._world
        s["pending"][ids] = 0
        s["pending"][ids, :, 6] = 1.0  # commands before the episode: no motion, gripper open
        self._instructions = []

        drawn = episode_start.draw(seeds, self.task, self.robot)
        start, arm = drawn.placement, drawn.joints
        s["names"][ids] = drawn.names
        self._paint(ids, seeds)
        self._conditions.draw(s, ids, seeds)

        self._batch.reset(ids=ids)
        now.qpos[ids[:, None], world.arm] = arm
        now.qpos[ids[:, None], world.fingers] = self.robot.opening / 2
        if world.object_qpos is not None:
            pose = np.concatenate([start.object, _about_z(start.object_yaw)], axis=1)
            now.qpos[ids, world.object_qpos : world.object_qpos + 7] = pose
        if world.target_qpos is not None:
            pose = np.concatenate([start.target, _about_z(start.target_yaw)], axis=1)
            now.qpos[ids, world.target_qpos : world.target_qpos + 7] = pose
        else:
            now.mocap[ids, 0] = start.target
        self._batch.forward(ids=ids)
        self._control.begin(s, ids, arm)
        s["violated"][ids] = False

    # A step -------------------------------------------------------------------------------------------------------

    def step(self, action: Tensor) -> Step:
        """See `VectorEnv.step`."""
        command = finite_action(action)
        self._sensing.step(self._state)
        before, held = self._now.tcp.copy(), self._control.goals.copy()
        cost = self._control.move(self._state, self._delayed(command))
        self._advance(held)
        finite = self._now.finite()
        if not finite.all():
            raise NonFiniteError(
                "environment", f"{self.spec.task}: state of environments {np.flatnonzero(~finite).tolist()[:8]}"
            )
        self._state["violated"] |= (self._now.nearest() < MARGIN).any(axis=1)
        moved = self._now.tcp - before
        frame = self._now.frame(tcp_speed=np.sqrt((moved**2).sum(axis=1)) * self.spec.control_hz)
        terminated = self.task.success(frame)
        if self.spec.reward == "sparse":
            reward = terminated.astype(np.float64)
        else:
            reward = np.where(terminated, 0.0, self.task.reward(frame) - 1.0)
        return self._step(reward - cost, terminated, terminated)

    def _delayed(self, command: np.ndarray) -> np.ndarray:
        """Append a command to the delay line and return the command that is due in this control step."""
        if not self.robot.delay and "delay" not in self._conditions.names:
            return command
        s = self._state
        line = np.concatenate([command[:, None], s["pending"]], axis=1)  # newest first
        s["pending"] = line[:, :-1].copy()
        return line[np.arange(self.num_envs), self.robot.delay + s["delay"] // SUBSTEPS]

    def _advance(self, held: np.ndarray) -> None:
        """Simulate a control step; the servos keep the goals `held` [N, n + 2] until the command is due within it."""
        if "delay" not in self._conditions.names:
            self._batch.step(nstep=SUBSTEPS)
            return
        late, goals = self._state["delay"] % SUBSTEPS, self._control.goals
        new = goals.copy()
        goals[:] = np.where(late[:, None] > 0, held, new)
        groups = [(ticks, np.flatnonzero(late == ticks)) for ticks in np.unique(late).tolist()]
        for ticks, ids in groups:
            if ticks:
                self._batch.step(ids=ids, nstep=ticks)
        goals[:] = new
        for ticks, ids in groups:
            self._batch.step(ids=ids, nstep=SUBSTEPS - ticks)

    def _arm_measures(self, ids: np.ndarray) -> dict[str, Tensor]:
        """See `ArrayEnv`; an ideal arm touches nothing and has no limits."""
        if self._config.limits == IDEAL:
            return {}
        s = self._state
        share = (s["limited"][ids] / s["elapsed"][ids]).astype(np.float32)
        return {"violated": self._tensor(s["violated"][ids]), "limited": self._tensor(share)}

    # Observations -------------------------------------------------------------------------------------------------

    def _observe(self, ids: np.ndarray) -> TensorDict:
        """Current observation of the environments `ids` [K]."""
        scene = self._config.obs_mode == "state"
        late = self._state["pending"][ids, : self.robot.delay]
        obs = self._now.observe(ids, self._state["target_pos"][ids], late, scene=scene, goal=self.task.aerial)
        obs["state"] = torch.from_numpy(self._sensing.state(obs["state"].numpy(), self._state, ids))
        for key, renderer in self._renderers.items():
            obs[key] = torch.from_numpy(self._sensing.image(key, self._picture(renderer, ids), self._state, ids))
        return TensorDict(obs, batch_size=[len(ids)]).to(self.device)

    def _picture(self, renderer: Renderer, ids: np.ndarray) -> np.ndarray:
        """Images of one camera in the environments `ids`: uint8 [K, size, size, 3]."""
        position, rotation = self._camera_pose(renderer.camera)
        return renderer.render(position, rotation, self._state["colors"], ids, self._state["exposure"])

    def _camera_pose(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Camera positions [N, 3] and rotations [N, 3, 3] in the base frame."""
        shift = self._state["camera"]
        turn = kinematics.quat_to_mat(kinematics.rotvec_to_quat(shift[:, 3:]))
        if not camera.mounted:
            return camera.position + shift[:, :3], turn @ camera.rotation
        hand = self._now.hand()
        position = self._now.tcp + hand @ camera.position + shift[:, :3]
        return position, turn @ hand @ camera.rotation

    def teacher_images(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """See `VectorEnv.teacher_images`."""
        ids = np.arange(self.num_envs) if envs is None else envs.cpu().numpy()
        pictures = {key: self._picture(renderer, ids) for key, renderer in self._views.items()}
        return {key: torch.from_numpy(picture).to(self.device) for key, picture in pictures.items()}

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """See `VectorEnv.render`. With shadows, unlike observed images."""
        if size not in self._people:
            self._people[size] = Renderer(self._batch, people_camera(self.robot), size, shadows=True)
        ids = np.arange(self.num_envs) if envs is None else np.unique(envs)
        pictures = self._picture(self._people[size], ids)
        return torch.from_numpy(pictures if envs is None else pictures[np.searchsorted(ids, envs)])

    # Colors -------------------------------------------------------------------------------------------------------

    def _paint(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Color the objects as in the instruction, and perturb all colors if randomized."""
        s, world = self._state, self._world
        colors = np.tile(world.model.geom_rgba[:, :3].astype(np.float32), (len(ids), 1, 1))
        colors[:, world.object_geoms] = _PALETTE[s["names"][ids, 1]][:, None]
        if self.task.marker == "cube":
            colors[:, world.target_geoms] = _PALETTE[s["names"][ids, 2]][:, None]
        if "colors" in self._conditions.names:
            colors = domain_randomization.shift_colors(colors, np.concatenate([world.object_geoms, world.target_geoms]), seeds)
        s["colors"][ids] = colors

    # Saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`: the integration state of every simulation and the state beyond it."""
        return {"physics": torch.from_numpy(np.array(self._physics)), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """See `VectorEnv.load_state_dict`."""
        self._restore(state)
        self._conditions.apply(self._state, np.arange(self.num_envs))
        self._physics[:] = state["physics"].numpy()
        self._batch.forward()  # recomputes poses and contacts
        self._instructions = []
        return self._observe(np.arange(self.num_envs))


def _about_z(yaw: np.ndarray) -> np.ndarray:
    """Quaternions [K, 4] of rotations by `yaw` [K] about the vertical axis."""
    return np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1)
