"""A ManiSkill simulation with named tensors: B = 1 scene on the CPU, B = N on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rpd.envs.backends.protocol import Outcome
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, RunFault, unknown_name
from rpd.envs.maniskill import controllers, scene, tasks
from rpd.envs.maniskill.viewpoints import viewpoints
from rpd.envs.seeding import in_32_bits
from rpd.envs.specs import EnvSpec, ObsSpec

RENDER_SIZE = 256
"""Size of the images of the viewer camera, pixels: RPD's teachers were trained on it at this size."""

CONTROL_MODES = ("pd_ee_delta_pose", "pd_joint_delta_pos")
"""Default control modes in order of preference. RPD's teachers use the first."""

_BUILD_SEED = 2022
"""Seed of the first build of a scene with one environment (`BaseEnv.__init__`)."""
_AXES = {3: ("x", "y", "z"), 7: ("x", "y", "z", "qw", "qx", "qy", "qz")}


class Sim:
    """A ManiSkill task, built from a configuration.

    Observations are `state` [B, S] and `image.<camera>` [B, H, W, 3] uint8; tasks with `ManipulationState` also return `scene`
    [B, scene.RAW_DIM]. With obs_mode state, the state is ManiSkill's own; with obs_mode rgb, it has only measurements of a real
    robot: joint positions and velocities, controller targets, and the tool pose. Goal markers are visible in every camera:
    otherwise the goal of some tasks would be unobservable.

    Args:
        task: name without the simulator's prefix.
        config: robot, reward, observations, controller.
        num_envs: B.
        sim_backend, render_backend: as named by ManiSkill.

    Raises:
        ConfigError: ManiSkill does not support an option for this task and robot.
    """

    exact_resume = False
    remarks: tuple[str, ...] = ()

    def __init__(self, task: str, config: EnvConfig, num_envs: int, sim_backend: str, render_backend: str) -> None:
        registered = tasks.load(task)[tasks.uid(task)]
        tasks.check_assets(task, config.robot)
        self.task = task
        self.config = config
        self.base = _build(task, config, num_envs, sim_backend, render_backend)
        if self.base.agent is None:
            raise ConfigError(f"task '{tasks.PREFIX}{task}' has no robot to control")
        self.actions, bounds = controllers.describe(self.agents)
        self._bounds = None if bounds is None else tuple(torch.as_tensor(v, device=self.base.device) for v in bounds)
        self._played = False
        self._cameras = self._choose_cameras()
        self._views = [name for name in config.teacher_cameras if name not in self._cameras]
        self._roles = scene.ROLES.get(task) if self.base.robot_uids in scene.ROBOTS else None
        self.spec = self._describe(registered.max_episode_steps)

    @property
    def agents(self) -> dict[str, Any]:
        """Robots by name, in the order of the action."""
        return getattr(self.base.agent, "agents_dict", {"robot": self.base.agent})

    def step(self, action: Tensor) -> Outcome:
        """Apply an action [B, A] in [-1, 1] for one control step."""
        if self._bounds is not None:
            low, high = self._bounds
            action = torch.lerp(low, high, (action + 1) / 2)
        obs, reward, _, _, info = self.base.step(self._split(action))
        success = info.get("success")
        if success is None:
            success = torch.zeros(len(action), dtype=torch.bool, device=action.device)
        # ManiSkill's normalized dense reward is 1 on success. An episode that ends on success would forgo later rewards, so
        # that delaying success would pay; shifted to [-1, 0], the earliest success has the highest return.
        reward = success.float() if self.config.reward == "sparse" else reward - 1
        return Outcome(self.observe(obs, info), reward, success.bool())

    def reset(self, seed: int, exact: bool = False) -> dict[str, Tensor]:
        """Start the episode of a seed and return its first observation; B = 1.

        PhysX keeps contact caches across resets, so an episode depends on earlier ones from its first contact on. An exact
        reset rebuilds the scene with the same objects.
        """
        options = {"reconfigure": True} if self.config.reconfigure else {}
        if exact and self._played and not self.config.reconfigure:
            self.base.reset(seed=_BUILD_SEED, options={"reconfigure": True})
        self._played = True
        obs, info = self.base.reset(seed=in_32_bits(seed), options=options)
        return self.observe(obs, info)

    def observe(self, obs: dict | None = None, info: dict | None = None) -> dict[str, Tensor]:
        """Observe the current state, reusing ManiSkill's observation and info if given."""
        info = self.base.get_info() if info is None else info
        if self.config.obs_mode == "rgb":
            obs = self._proprioception()
        elif obs is None:
            obs = self.base.get_obs(info)
        out = {"state": torch.cat([value.reshape(len(value), -1).float() for _, value in _leaves(obs)], dim=-1)}
        if self.config.obs_mode == "rgb":
            images = self._photograph(self._cameras)
            out |= {f"image.{name}": image for name, image in images.items()}
        if self._roles:
            out["scene"] = scene.raw(self.base, self._roles, info)
        return out

    def teacher_images(self) -> dict[str, Tensor]:
        """Render the teacher-only cameras: ``view.<camera>`` uint8 [B, H, W, 3]."""
        return {f"view.{name}": image for name, image in self._photograph(self._views).items()} if self._views else {}

    def render(self) -> Tensor:
        """Render the viewer camera (or the first camera): uint8 [B, H, W, 3]."""
        name = self._viewpoint
        return self._photograph([name])[name]

    @property
    def render_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, 3) of `render`, without rendering: the first image in a process compiles shaders for seconds."""
        return self._shape(self._viewpoint)

    @property
    def view_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (H, W, 3) of each image that `teacher_images` returns, by key."""
        return {f"view.{name}": self._shape(name) for name in self._views}

    def get_state(self) -> Tensor:
        """Copy poses and velocities of everything that moves, [B, D]."""
        return self.base.get_state().clone()

    def set_state(self, state: Tensor) -> None:
        """Restore `get_state`. Contacts and motor targets are rebuilt, so the continuation agrees up to rounding errors."""
        self.base.set_state(state)
        for agent in self.agents.values():
            agent.controller.reset()

    @property
    def _viewpoint(self) -> str:
        return next(iter(self.base.scene.human_render_cameras or self.base.scene.sensors))

    def _split(self, action: Tensor) -> Tensor | dict[str, Tensor]:
        if len(self.agents) == 1 and not hasattr(self.base.agent, "agents_dict"):
            return action
        widths = [agent.single_action_space.shape[0] for agent in self.agents.values()]
        return dict(zip(self.agents, action.split(widths, dim=-1), strict=True))

    def _proprioception(self) -> dict[str, Any]:
        agents = self.agents
        tools = {name: _tool_pose(agent) for name, agent in agents.items()}
        poses: dict[str, Any] = {name: {"tcp_pose": pose} for name, pose in tools.items() if pose is not None}
        extra = poses if len(agents) > 1 else next(iter(poses.values()), {})
        return {"agent": self.base.agent.get_proprioception(), "extra": extra}

    def _photograph(self, names: list[str]) -> dict[str, Tensor]:
        stage = self.base.scene
        people = [name for name in names if name in stage.human_render_cameras]
        stage.update_render(update_sensors=len(people) < len(names), update_human_render_cameras=bool(people))
        images = {}
        for name in names:
            camera = stage.human_render_cameras[name] if name in people else stage.sensors[name]
            camera.capture()
            images[name] = camera.get_obs(rgb=True, depth=False, position=False, segmentation=False)["rgb"]
        return images

    def _shape(self, camera: str) -> tuple[int, int, int]:
        stage = self.base.scene
        config = (stage.human_render_cameras | stage.sensors)[camera].config
        return config.height, config.width, 3

    def _choose_cameras(self) -> list[str]:
        available = [*self.base.scene.human_render_cameras, *self.base.scene.sensors]
        for name in (*(self.config.cameras or ()), *self.config.teacher_cameras):
            if name not in available:
                raise unknown_name(f"camera for {tasks.PREFIX}{self.task}", name, available)
        if self.config.obs_mode == "state":
            return []
        if not available:
            raise ConfigError(f"task '{tasks.PREFIX}{self.task}' has no camera: use --env.obs-mode state")
        return list(self.config.cameras or available[:1])

    def _describe(self, default_steps: int | None) -> EnvSpec:
        name = tasks.PREFIX + self.task
        max_steps = self.config.max_episode_steps or default_steps
        if max_steps is None:
            raise ConfigError(f"task '{name}' has no episode length of its own: give --env.max-episode-steps")
        if self.config.reward == "sparse" and "success" not in self.base.get_info():
            raise ConfigError(f"task '{name}' does not report success, so it has no sparse reward")
        if self.config.reward != "sparse":
            self._check_reward(name)
        obs = self.observe()
        raw = self._proprioception() if self.config.obs_mode == "rgb" else self.base.get_obs(self.base.get_info())
        return EnvSpec(
            task=name,
            embodiment=controllers.embodiment(self.agents),
            observations={
                key: ObsSpec(shape=tuple(value.shape[1:]), dtype="float32" if key == "state" else "uint8")
                for key, value in obs.items()
                if key != "scene"
            },
            state_names=tuple(entry for path, value in _leaves(raw) for entry in self._entry_names(path, value)),
            action=self.actions,
            control_hz=self.base.control_freq,
            max_episode_steps=max_steps,
            reward=self.config.reward,
            scene=self._roles is not None,
            control_mode=self._control_mode(),
            viewpoints=viewpoints(self.base, self._cameras),
        )

    def _check_reward(self, name: str) -> None:
        """Raise if a task declares a dense reward but does not compute it."""
        info = self.base.get_info()
        action = torch.zeros(self.base.num_envs, self.actions.dim, device=self.base.device)
        try:
            self.base.get_reward(obs=self.base.get_obs(info), action=self._split(action), info=info)
        except NotImplementedError:
            raise ConfigError(
                f"task '{name}' has no dense reward: implement compute_normalized_dense_reward, or use --env.reward sparse"
            ) from None

    def _control_mode(self) -> str | None:
        """Control mode of all robots; None if they differ."""
        modes = {agent.control_mode for agent in self.agents.values()}
        return modes.pop() if len(modes) == 1 else None

    def _entry_names(self, path: tuple[str, ...], value: Tensor) -> list[str]:
        """Name the entries of one tensor, e.g. ``qpos.panda_joint1``, ``obj_pose.x``, ``is_grasped``."""
        stem, width = ".".join(path[1:]), value[0].numel()
        if width == 1:
            return [stem]
        agent = self.agents.get(path[1], next(iter(self.agents.values())))
        joints = [joint.name for joint in agent.robot.active_joints]
        if path[-1] in ("qpos", "qvel") and len(joints) == width:
            return [f"{stem}.{joint}" for joint in joints]
        axes = _AXES.get(width, ()) if "pos" in path[-1] else ()
        return [f"{stem}.{axis}" for axis in axes or range(width)]


def _build(task: str, config: EnvConfig, num_envs: int, sim_backend: str, render_backend: str) -> Any:
    import gymnasium

    observed = config.obs_mode == "rgb"
    pixels = config.image_size if observed else config.teacher_image_size
    if observed and config.teacher_image_size not in (None, pixels):
        raise ConfigError(
            f"{tasks.PREFIX}{task}: all cameras have one size, and env.teacher_image_size {config.teacher_image_size} is not "
            f"env.image_size {pixels}: make them equal"
        )
    size = {} if pixels is None else {"width": pixels, "height": pixels}
    options: dict[str, Any] = {
        "num_envs": num_envs,
        # With obs_mode rgb, only the requested cameras are rendered, by this class.
        "obs_mode": "none" if observed else "state_dict",
        "reward_mode": "sparse" if config.reward == "sparse" else "normalized_dense",
        "sim_backend": sim_backend,
        "render_backend": render_backend,
        "sensor_configs": dict(size),
        "human_render_camera_configs": {"width": RENDER_SIZE, "height": RENDER_SIZE} | size,
    }
    if config.robot is not None:
        options["robot_uids"] = config.robot
    if sim_backend != "physx_cpu":
        options["reconfiguration_freq"] = 0  # a GPU scene cannot be rebuilt for some of its environments
    name = tasks.PREFIX + task
    try:
        for mode in CONTROL_MODES if config.control_mode is None else (config.control_mode,):
            try:
                return gymnasium.make(tasks.uid(task), control_mode=mode, **options).unwrapped
            except AssertionError as error:
                if "not in supported modes" not in str(error):
                    raise
                refusal = str(error)
        raise ConfigError(f"{name}: control mode {refusal}")
    except NotImplementedError as error:
        if "reward mode" in str(error):
            modes = importlib.import_module("mani_skill.utils.registration").REGISTERED_ENVS[tasks.uid(task)].cls
            raise ConfigError(
                f"{name} has no {config.reward} reward; ManiSkill offers: {', '.join(modes.SUPPORTED_REWARD_MODES)}"
            ) from None
        raise
    except SystemExit:
        raise RunFault(f"{name}: ManiSkill exited because files are missing") from None


def _leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), torch.as_tensor(value)


def _tool_pose(agent: Any) -> Tensor | None:
    if hasattr(agent, "tcp_pose"):
        return agent.tcp_pose.raw_pose
    return agent.tcp.pose.raw_pose if hasattr(agent, "tcp") else None
