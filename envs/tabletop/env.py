"""N tabletop environments stepped together on MuJoCo's C++ thread pool."""

from __future__ import annotations

import os

import numpy as np
import torch
from mjbatch import Batch
from tensordict import TensorDict
from torch import Tensor

from envs.base import EnvConfig, Episodes, Step, VectorEnv
from envs.errors import NonFiniteError
from envs.specs import ActionSpec, EnvSpec, ObsSpec, Scene
from envs.tabletop import ik, randomize
from envs.tabletop.camera import Camera, Renderer
from envs.tabletop.robots import ROBOTS
from envs.tabletop.tasks import COLORS, TASKS, Frame
from envs.tabletop.views import cameras, people_camera
from envs.tabletop.world import SUBSTEPS, TIMESTEP, build

DEFAULT_CAMERAS, DEFAULT_IMAGE_SIZE = ("front",), 64
PRESS = 0.3  # N: a finger presses on the object, it does not merely touch it
DAMPING = 0.02  # m, of the differential inverse kinematics
POSTURE = 0.1  # fraction of the way home per step, where a joint is free
LEAD = 2.0  # the target may run ahead of the arm by this many full steps
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)


class TabletopEnv(VectorEnv):
    """A task with a robot, N times. See `envs.base.VectorEnv` for the contract.

    The controller is a Cartesian delta controller like ManiSkill's ``pd_ee_delta_pose``: an action moves a target
    pose in the base frame (previous target + delta, so that gravity and contact do not make it droop), differential
    inverse kinematics turns the remaining error into joint targets, position servos follow for five substeps of 10 ms.
    """

    exact_resume = True

    def __init__(self, task: str, config: EnvConfig, device: torch.device, num_threads: int | None) -> None:
        """Build from a validated task name; see `envs.registry.make` for the arguments."""
        self.num_envs, self.device = config.num_envs, device
        self.task = TASKS[task.split("/", 1)[1]]
        self.robot = ROBOTS[config.robot or "panda"]
        self._randomize = randomize.chosen(config.randomize)
        self._world = build(self.task, self.robot)
        model = self._world.model
        threads = min(num_threads or os.cpu_count() or 1, self.num_envs)
        self._batch = Batch(model, self.num_envs, num_threads=threads, forward=True)
        self._bind()
        self._config = config
        size = config.image_size or DEFAULT_IMAGE_SIZE
        views = cameras(self.robot)
        observed = (config.cameras or DEFAULT_CAMERAS) if config.obs == "image" else ()
        self._renderers = {f"image.{name}": Renderer(self._batch, views[name], size) for name in observed}
        self._people: dict[int, Renderer] = {}
        self._state = self._initial_state()
        self._instructions: list[str] = []
        self.spec = self._make_spec(task, config, size)

    def _bind(self) -> None:
        """Live views of the simulation, [N, ...]."""
        batch, world = self._batch, self._world
        self._qpos, self._qvel, self._ctrl = batch.bind("qpos"), batch.bind("qvel"), batch.bind("ctrl")
        self._site, self._site_mat = batch.bind("site_xpos"), batch.bind("site_xmat")
        self._contact = batch.bind("sensordata") if self.task.has_object else None
        self._mocap = batch.bind("mocap_pos") if world.target_qpos is None else None
        self._physics = batch.bind("state")
        self._friction = batch.expand("geom_friction") if "friction" in self._randomize else None
        self._mass = batch.expand("body_mass") if "mass" in self._randomize else None
        n, nv = self.num_envs, world.model.nv
        self._jacp, self._jacr = np.empty((n, 3, nv)), np.empty((n, 3, nv))
        self._tcp_body = np.full(n, world.tcp_body, dtype=np.int32)

    def _initial_state(self) -> dict[str, np.ndarray]:
        """Everything that the simulation's own state does not hold, by name: what `state_dict` saves."""
        n, geoms = self.num_envs, self._world.model.ngeom
        return {
            "seed": np.zeros(n, dtype=np.int64),
            "elapsed": np.zeros(n, dtype=np.int64),
            "limit": np.zeros(n, dtype=np.int64),
            "ret": np.zeros(n),
            "success_once": np.zeros(n, dtype=bool),
            "target_pos": np.zeros((n, 3)),  # of the controller
            "target_quat": np.zeros((n, 4)),
            "tcp_speed": np.zeros(n),
            "pending": np.zeros((n, randomize.MAX_DELAY, 7)),  # commands that are still on their way
            "delay": np.zeros(n, dtype=np.int64),
            "colors": np.tile(self._world.model.geom_rgba[:, :3].astype(np.float32), (n, 1, 1)).reshape(n, geoms, 3),
            "camera": np.zeros((n, 6)),  # displacement of the camera: position, rotation vector
            "names": np.zeros((n, 3), dtype=np.int64),  # phrase, object colour, target colour
            "friction": np.ones(n),
            "mass": np.ones(n),
        }

    def _make_spec(self, task: str, config: EnvConfig, size: int) -> EnvSpec:
        names = self._state_names(config.obs == "state")
        robot = self.robot
        images = {key: ObsSpec(shape=(size, size, 3), dtype="uint8") for key in self._renderers}
        return EnvSpec(
            task=task,
            embodiment=robot.embodiment(),
            observations={"state": ObsSpec(shape=(len(names),), dtype="float32"), **images},
            state_names=names,
            action=ActionSpec(
                names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
                units=("m", "m", "m", "rad", "rad", "rad", "open"),
                scale=(robot.max_delta_pos,) * 3 + (robot.max_delta_rot,) * 3 + (1.0,),
                discrete=(False,) * 6 + (True,),
            ),
            control_hz=1 / (TIMESTEP * SUBSTEPS),
            max_episode_steps=config.max_episode_steps or self.task.max_steps,
            reward=config.reward,
            scene=True,
        )

    @property
    def instructions(self) -> list[str]:
        """See `VectorEnv.instructions`."""
        if not self._instructions:
            colors = list(COLORS)
            self._instructions = [
                self.task.phrases[p].format(object=colors[o], target=colors[t]) for p, o, t in self._state["names"]
            ]
        return self._instructions

    # Episodes -----------------------------------------------------------------------------------------------------

    def reset(self, seed: int, stagger: bool = False) -> TensorDict:
        """See `VectorEnv.reset`."""
        everyone = np.arange(self.num_envs)
        self._begin(everyone, seed + everyone)
        if stagger:
            u = randomize.uniforms(self._state["seed"], 1, stream=2)[:, 0]
            self._state["limit"] = np.ceil((0.02 + 0.98 * u) * self.spec.max_episode_steps).astype(np.int64)
        return self._observe(everyone)

    def _begin(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Start the episodes of `seeds` [K] in the environments `ids` [K]."""
        s, world, k = self._state, self._world, len(ids)
        s["seed"][ids] = seeds
        for name in ("elapsed", "ret", "success_once", "tcp_speed", "pending"):
            s[name][ids] = 0
        s["limit"][ids] = self.spec.max_episode_steps
        self._instructions = []

        u = randomize.uniforms(seeds, 32, stream=0)
        start = self.task.place(u[:, :8], self.robot)
        s["names"][ids, 0] = (u[:, 8] * len(self.task.phrases)).astype(np.int64)
        s["names"][ids, 1] = (u[:, 9] * len(COLORS)).astype(np.int64)
        other = (u[:, 10] * (len(COLORS) - 1)).astype(np.int64)  # never the object's own colour
        s["names"][ids, 2] = other + (other >= s["names"][ids, 1])
        self._paint(ids, seeds)
        self._draw_domain(ids, seeds)

        self._batch.reset(ids=ids)
        arm = np.array(self.robot.home) + (u[:, 11 : 11 + len(world.arm)] - 0.5) * 0.04
        self._qpos[ids[:, None], world.arm] = arm
        self._qpos[ids[:, None], world.fingers] = self.robot.opening / 2
        self._ctrl[ids] = np.concatenate([arm, np.full((k, 2), self.robot.opening / 2)], axis=1)
        upright = np.stack([np.cos(start.object_yaw / 2), 0 * start.object_yaw, 0 * start.object_yaw, np.sin(start.object_yaw / 2)], 1)
        if world.object_qpos is not None:
            self._qpos[ids, world.object_qpos : world.object_qpos + 7] = np.concatenate([start.object, upright], axis=1)
        if world.target_qpos is not None:
            turned = np.stack([np.cos(start.target_yaw / 2), 0 * start.target_yaw, 0 * start.target_yaw, np.sin(start.target_yaw / 2)], 1)
            self._qpos[ids, world.target_qpos : world.target_qpos + 7] = np.concatenate([start.target, turned], axis=1)
        else:
            self._mocap[ids, 0] = start.target
        self._batch.forward(ids=ids)
        s["target_pos"][ids] = self._site[ids, world.tcp]
        s["target_quat"][ids] = self._tcp_quat(ids)

    # A step -------------------------------------------------------------------------------------------------------

    def step(self, action: Tensor) -> Step:
        """See `VectorEnv.step`."""
        s = self._state
        command = action.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(command).all():
            raise NonFiniteError("policy", f"action of environment {int(np.argwhere(~np.isfinite(command))[0, 0])}")
        before = self._site[:, self._world.tcp].copy()
        self._control(self._delayed(np.clip(command, -1.0, 1.0)))
        self._batch.step(nstep=SUBSTEPS)
        if not (np.isfinite(self._qpos).all() and np.isfinite(self._qvel).all()):
            bad = np.flatnonzero(~np.isfinite(self._qpos).all(1) | ~np.isfinite(self._qvel).all(1))
            raise NonFiniteError("environment", f"{self.spec.task}: state of environments {bad.tolist()[:8]}")
        s["elapsed"] += 1
        moved = self._site[:, self._world.tcp] - before
        s["tcp_speed"] = np.sqrt((moved**2).sum(axis=1)) * self.spec.control_hz
        frame = self._frame()
        terminated = self.task.success(frame)
        if self.spec.reward == "sparse":
            reward = terminated.astype(np.float64)
        else:
            reward = np.where(terminated, 0.0, self.task.reward(frame) - 1.0)
        s["ret"] += reward
        s["success_once"] |= terminated
        truncated = (s["elapsed"] >= s["limit"]) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        final_obs, episode = None, None
        if len(ended):
            final_obs = self._observe(ended)
            episode = Episodes(
                env=self._tensor(ended),
                ret=self._tensor(s["ret"][ended].astype(np.float32)),
                length=self._tensor(s["elapsed"][ended]),
                success_once=self._tensor(s["success_once"][ended]),
                success_at_end=self._tensor(terminated[ended]),
                seed=self._tensor(s["seed"][ended]),
            )
            self._begin(ended, randomize.next_seed(s["seed"][ended]))
        return Step(
            obs=self._observe(np.arange(self.num_envs)),
            reward=self._tensor(reward.astype(np.float32)),
            terminated=self._tensor(terminated),
            truncated=self._tensor(truncated),
            final_obs=final_obs,
            episode=episode,
        )

    def _delayed(self, command: np.ndarray) -> np.ndarray:
        """Put a command on its way and return the one that arrives now."""
        if "delay" not in self._randomize:
            return command
        s = self._state
        line = np.concatenate([command[:, None], s["pending"]], axis=1)  # newest first
        s["pending"] = line[:, :-1].copy()
        return line[np.arange(self.num_envs), s["delay"]]

    def _control(self, command: np.ndarray) -> None:
        """Move the target pose and aim the servos at it."""
        s, robot, world = self._state, self.robot, self._world
        position, quat = self._site[:, world.tcp], self._tcp_quat(slice(None))
        (x0, y0), (x1, y1) = robot.workspace
        reach = 0.1  # m beyond the work area: room to go around and behind things
        low, high = np.array([x0 - reach, y0 - reach, 0.0]), np.array([x1 + reach, y1 + reach, robot.max_height + reach])
        lead, turn = LEAD * robot.max_delta_pos, LEAD * robot.max_delta_rot
        target = s["target_pos"] + command[:, :3] * robot.max_delta_pos
        # Without a bound on how far it runs ahead, a target pushed into the table would take as long to come back.
        s["target_pos"] = np.clip(position + np.clip(target - position, -lead, lead), low, high)
        turned = ik.quat_mul(ik.rotvec_to_quat(command[:, 3:6] * robot.max_delta_rot), s["target_quat"])
        error = ik.rotation_error(turned, quat)
        angle = np.sqrt((error**2).sum(axis=1, keepdims=True))
        error *= np.minimum(1.0, turn / np.maximum(angle, 1e-9))
        s["target_quat"] = ik.quat_mul(ik.rotvec_to_quat(error), quat)
        self._batch.jac(self._jacp, self._jacr, np.ascontiguousarray(position), self._tcp_body)
        n = len(world.arm)
        jacp, jacr = self._jacp[:, :, world.arm_dofs], self._jacr[:, :, world.arm_dofs]
        joints = self._qpos[:, world.arm]
        lower, upper = world.model.actuator_ctrlrange[:n].T
        # A seventh joint would drift: what the task leaves free goes home.
        posture = POSTURE * (np.array(robot.home) - joints) if n > 6 else None
        self._ctrl[:, :n] = ik.joint_targets(
            joints, lower, upper, jacp, jacr, s["target_pos"] - position, error, DAMPING, robot.rot_weight, posture
        )
        self._ctrl[:, n:] = np.where(command[:, 6:7] > 0, robot.opening / 2, 0.0)

    # Observations -------------------------------------------------------------------------------------------------

    def _tcp_quat(self, ids: np.ndarray | slice) -> np.ndarray:
        return ik.mat_to_quat(self._site_mat[ids, self._world.tcp].reshape(-1, 3, 3))

    def _object(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position [K, 3] and quaternion [K, 4] of the object; where there is none, the target's."""
        a = self._world.object_qpos
        if a is None:
            return self._target(ids)
        return self._qpos[ids, a : a + 3], self._qpos[ids, a + 3 : a + 7]

    def _target(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a = self._world.target_qpos
        if a is None:
            return self._mocap[ids, 0], np.tile([1.0, 0.0, 0.0, 0.0], (len(ids), 1))
        return self._qpos[ids, a : a + 3], self._qpos[ids, a + 3 : a + 7]

    def _opening(self, ids: np.ndarray) -> np.ndarray:
        return self._qpos[ids[:, None], self._world.fingers].sum(axis=1) / self.robot.opening

    def _pressing(self, ids: np.ndarray) -> np.ndarray:
        """[K, 2] whether each finger presses on the object."""
        if self._contact is None:
            return np.zeros((len(ids), 2), dtype=bool)
        return np.linalg.norm(self._contact[ids].reshape(len(ids), 2, 3), axis=-1) > PRESS

    def _frame(self) -> Frame:
        ids = np.arange(self.num_envs)
        a = self._world.object_qvel
        velocity = np.zeros((self.num_envs, 3)) if a is None else self._qvel[:, a : a + 3]
        return Frame(
            tcp=self._site[:, self._world.tcp],
            tcp_speed=self._state["tcp_speed"],
            opening=self._opening(ids),
            grasped=self._pressing(ids).all(axis=1),
            object=self._object(ids)[0],
            object_speed=np.linalg.norm(velocity, axis=1),
            target=self._target(ids)[0],
            half=self.robot.cube_half_size,
        )

    def _state_names(self, scene: bool) -> tuple[str, ...]:
        """One name per entry of ``state``; `scene` adds what only a simulator knows."""
        robot = self.robot
        names = [f"q.{j}" for j in robot.joints] + [f"dq.{j}" for j in robot.joints] + ["gripper"]
        names += [f"tcp.{c}" for c in ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32")]
        names += [f"tcp_lag.{c}" for c in "xyz"]
        if scene:
            names += ["press.left", "press.right"]
            names += [f"object.{c}" for c in ("dx", "dy", "dz", "cos4", "sin4")]
            names += [f"goal.{c}" for c in ("dx", "dy", "dz", "tcp_dx", "tcp_dy", "tcp_dz")]
        return tuple(names)

    def _observe(self, ids: np.ndarray) -> TensorDict:
        """Observation of the environments `ids` [K], as they are now."""
        tcp, tcp_quat = self._site[ids, self._world.tcp], self._tcp_quat(ids)
        (obj, obj_quat), (target, target_quat) = self._object(ids), self._target(ids)
        opening, pressing = self._opening(ids)[:, None], self._pressing(ids)
        columns = self._site_mat[ids, self._world.tcp].reshape(-1, 3, 3)
        entries = [
            self._qpos[ids[:, None], self._world.arm],
            self._qvel[ids[:, None], self._world.arm_dofs],
            opening,
            tcp,
            columns[:, :, 0],
            columns[:, :, 1],
            self._state["target_pos"][ids] - tcp,
        ]
        if self._config.obs == "state":
            # Relative vectors: an MLP cannot see a centimetre in the difference of two positions.
            entries += [pressing, obj - tcp, _facing(ik.quat_to_mat(obj_quat), columns), target - obj, target - tcp]
        scene = Scene.empty(len(ids))
        for name, value in {
            "tcp_pos": tcp,
            "tcp_quat": tcp_quat,
            "gripper": opening,
            "object_pos": obj,
            "object_quat": obj_quat,
            "object_half_size": np.full((len(ids), 1), self.robot.cube_half_size),
            "target_pos": target,
            "target_quat": target_quat,
            "grasped": pressing.all(axis=1, keepdims=True),
        }.items():
            Scene.get(scene, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
        obs = {"state": torch.from_numpy(np.concatenate(entries, axis=1).astype(np.float32)), "privileged": scene}
        for key, renderer in self._renderers.items():
            obs[key] = torch.from_numpy(self._picture(renderer, ids))
        return TensorDict(obs, batch_size=[len(ids)]).to(self.device)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.device)

    # Pictures -----------------------------------------------------------------------------------------------------

    def _picture(self, renderer: Renderer, ids: np.ndarray) -> np.ndarray:
        """Images of one camera for the environments `ids`: uint8 [K, size, size, 3]."""
        position, rotation = self._camera_pose(renderer.camera)
        return renderer.render(position, rotation, self._state["colors"], ids)

    def _camera_pose(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Positions [N, 3] and rotations [N, 3, 3] in the base frame."""
        shift = self._state["camera"]
        turn = ik.quat_to_mat(ik.rotvec_to_quat(shift[:, 3:]))
        if not camera.mounted:
            return camera.position + shift[:, :3], turn @ camera.rotation
        hand = self._site_mat[:, self._world.tcp].reshape(-1, 3, 3)
        position = self._site[:, self._world.tcp] + hand @ camera.position + shift[:, :3]
        return position, turn @ hand @ camera.rotation

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """See `VectorEnv.render`. Casts shadows, which observed images do without."""
        if size not in self._people:
            self._people[size] = Renderer(self._batch, people_camera(self.robot), size, shadows=True)
        ids = np.arange(self.num_envs) if envs is None else np.unique(envs)
        pictures = self._picture(self._people[size], ids)
        return torch.from_numpy(pictures if envs is None else pictures[np.searchsorted(ids, envs)])

    # Randomisation ------------------------------------------------------------------------------------------------

    def _paint(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Colour the objects as the instruction says, and everything a little differently where randomised."""
        s, world = self._state, self._world
        colors = np.tile(world.model.geom_rgba[:, :3].astype(np.float32), (len(ids), 1, 1))
        colors[:, world.object_geoms] = _PALETTE[s["names"][ids, 1]][:, None]
        if self.task.marker == "cube":
            colors[:, world.target_geoms] = _PALETTE[s["names"][ids, 2]][:, None]
        if "colors" in self._randomize:
            shift = randomize.uniforms(seeds, colors[0].size, stream=3).reshape(colors.shape) - 0.5
            # Named colours have to stay recognisable; table and robot may be anything near what they are.
            width = np.full(colors.shape[1], 0.4)
            width[np.concatenate([world.object_geoms, world.target_geoms])] = 0.1
            colors = np.clip(colors + shift * width[:, None], 0, 1).astype(np.float32)
        s["colors"][ids] = colors

    def _draw_domain(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Draw friction, mass, camera and delay for new episodes."""
        s, chosen = self._state, self._randomize
        u = randomize.uniforms(seeds, 12, stream=1)
        if "friction" in chosen:
            s["friction"][ids] = 0.6 + 0.8 * u[:, 0]
        if "mass" in chosen:
            s["mass"][ids] = 0.5 + 1.5 * u[:, 1]
        if "delay" in chosen:
            s["delay"][ids] = (u[:, 2] * (randomize.MAX_DELAY + 1)).astype(np.int64)
        if "camera" in chosen:
            s["camera"][ids] = (u[:, 3:9] - 0.5) * 2 * np.array([0.03, 0.03, 0.03, 0.05, 0.05, 0.05])
        self._apply_domain()

    def _apply_domain(self) -> None:
        """Write friction and mass factors into the per-environment models."""
        model = self._world.model
        if self._friction is not None:
            self._friction[:] = model.geom_friction * self._state["friction"][:, None, None]
        if self._mass is not None and self.task.has_object:
            body = model.body("object").id
            self._mass[:, body] = model.body_mass[body] * self._state["mass"]

    # Saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """See `VectorEnv.state_dict`: the integration state of every simulation and everything beside it."""
        arrays = {"physics": self._physics, **self._state}
        return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """See `VectorEnv.load_state_dict`."""
        for name, array in self._state.items():
            array[...] = state[name].numpy()
        self._apply_domain()
        physics = state["physics"].numpy()
        self._physics[:] = physics
        self._batch.forward()  # fills what is derived (poses, contacts) ...
        self._physics[:] = physics  # ... and moves the solver's warm start, which has to be as it was
        self._instructions = []
        return self._observe(np.arange(self.num_envs))

    def close(self) -> None:
        """See `VectorEnv.close`. Threads end with the batch."""


def _facing(cube: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """How a cube's faces are turned against the fingers: cosine and sine of four times the angle [K, 2].

    A cube looks the same after a quarter turn, whichever face is up; the fourth power of a heading forgets such turns,
    and an axis that stands upright has no heading. Arguments are rotation matrices [K, 3, 3].
    """
    heading = ((cube[:, 0] + 1j * cube[:, 1]) ** 4).sum(axis=-1)
    turn = heading * np.conj((hand[:, 0, 1] + 1j * hand[:, 1, 1]) ** 4)
    turn /= np.maximum(np.abs(turn), 1e-9)
    return np.stack([turn.real, turn.imag], axis=-1)
