"""A task of LIBERO compiled once, stepped and reset without what robosuite does over and over.

What comes out is bit-identical to the original (`tests/envs/test_libero.py`). Three things make it faster:

- robosuite computes the dynamics three times per physics step (before the controller, in it, and in the step itself).
  Computed from the same state they are the same, so here `mj_step1` does it once, the controller reads it, and `mj_step2`
  goes on from there.
- It offers every sensor a sample in every physics step, and samples once per control step. Here sensors are asked then only.
- It compiles the model anew for every episode. Here an episode's start is remembered, after the first time it was played.

Several environments share a world. Each has a `Slot`: what differs between two environments of one task.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from envs.libero import tasks
from envs.libero.scene import Grasp, Roles, roles_of

SUBSTEPS = 25
"""Physics steps of 2 ms in a control step."""
SETTLE = 10
"""Control steps with open fingers and no motion before an episode begins: things fall into place."""
RESET_SEED = 0
"""numpy's global seed before every reset. Initial states do not say where fixtures stand; this does (as in OpenVLA's
evaluation)."""
_REST = np.array([0, 0, 0, 0, 0, 0, -1.0])
_AXES = {"quat": dict(enumerate(("qx", "qy", "qz", "qw")))}
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Clock:
    """When robosuite's sensors sample: once per period, at its first physics step, as its rounding errors have it."""

    period, timestep = 0.05, 0.002

    def __init__(self, time: float = 0.0, sampled: bool = False) -> None:
        self.time, self.sampled = time, sampled

    def tick(self) -> bool:
        """One physics step goes by; returns whether sensors sample at its end (`robosuite.utils.observables`)."""
        self.time += self.timestep
        samples = not self.sampled and self.period >= self.time
        self.sampled |= samples
        if self.time >= self.period:
            samples |= not self.sampled
            self.time %= self.period
            self.sampled = False
        return samples


@dataclass
class Moment:
    """All that the future depends on, before the physics step at whose end an observation was sampled.

    Attributes:
        physics: MuJoCo's integration state.
        goal_pos: [3] where the controller wants the hand.
        goal_ori: [3, 3].
        grip: [2] the fingers' command, which moves slowly.
        clock: time and whether sampled.
        alpha: visibility of each site: the flame on a stove.
        action: [7] LIBERO's own.
        substep: which physics step of the control step it was.
    """

    physics: np.ndarray
    goal_pos: np.ndarray
    goal_ori: np.ndarray
    grip: np.ndarray
    clock: tuple[float, bool]
    alpha: np.ndarray
    action: np.ndarray
    substep: int

    def to_vector(self) -> np.ndarray:
        """Flatten [D] float64."""
        parts = (self.goal_pos, self.goal_ori.ravel(), self.grip, self.clock, self.action, [self.substep])
        return np.concatenate([*parts, self.alpha, self.physics]).astype(np.float64)

    @classmethod
    def from_vector(cls, vector: np.ndarray, sites: int, size: int) -> Moment:
        """Undo `to_vector`; what follows the size of a world's state is padding."""
        ends = np.cumsum([3, 9, 2, 2, 7, 1, sites, size])
        pos, ori, grip, clock, action, substep, alpha, physics = np.split(vector[: ends[-1]], ends[:-1])
        return cls(physics, pos, ori.reshape(3, 3), grip, (float(clock[0]), bool(clock[1])), alpha, action, int(substep[0]))


@dataclass
class Slot:
    """One environment's share of a world."""

    data: Any
    """robosuite's wrapper of its own MjData."""
    clock: Clock = field(default_factory=Clock)
    moment: Moment | None = None
    """When its observation was sampled."""
    obs: dict[str, np.ndarray] = field(default_factory=dict)
    """The observation, by robosuite's names."""
    grasp: Grasp | None = None
    """Where to hold the thing that is to be moved, in tasks that move one."""
    scene: np.ndarray | None = None
    """See `envs.libero.scene.Roles.scene`."""
    goal_pos: np.ndarray = field(default_factory=lambda: np.zeros(3))
    goal_ori: np.ndarray = field(default_factory=lambda: np.eye(3))
    grip: np.ndarray = field(default_factory=lambda: np.zeros(2))
    alpha: np.ndarray = field(default_factory=lambda: np.zeros(0))


class World:
    """One task.

    Args:
        task: which.

    Raises:
        ConfigError: files are missing.
    """

    def __init__(self, task: tasks.Task) -> None:
        wrapper = import_envs().ControlEnv(
            bddl_file_name=str(tasks.bddl_file(task)),
            has_renderer=False,
            has_offscreen_renderer=False,  # nothing of OpenGL before workers are forked
            use_camera_obs=False,
        )
        self.task = task
        self.env = wrapper.env
        self.init_states = tasks.initial_states(task)
        wrapper.seed(RESET_SEED)
        wrapper.reset()
        self.model = self.env.sim.model._model
        self._sim, self._robot = self.env.sim, self.env.robots[0]
        self._controller, self._gripper = self._robot.controller, self._robot.gripper
        self._bind()
        self._start = self._get_physics(self._sim.data._data)
        self._start_controller = dict(vars(self._controller))
        self._start_alpha = self.model.site_rgba[:, 3].copy()
        self.roles: Roles | None = roles_of(self.env)
        self._starts: dict[int, tuple[Moment, Grasp | None]] = {}

    def _bind(self) -> None:
        """Look up once what robosuite looks up by name in every physics step."""
        model, robot = self.model, self._robot
        self._arm = robot._ref_joint_actuator_indexes
        self._torques = robot.torque_limits
        self._fingers = [self._sim.model.actuator_name2id(name) for name in self._gripper.actuators]
        limits = model.actuator_ctrlrange[self._fingers]
        self._finger_bias, self._finger_weight = 0.5 * (limits[:, 1] + limits[:, 0]), 0.5 * (limits[:, 1] - limits[:, 0])
        self._site = self._sim.model.site_name2id(self._controller.eef_name)
        self._controller.update = self._update_controller

    # Episodes -----------------------------------------------------------------------------------------------------

    def slot(self) -> Slot:
        """Make room for one more environment."""
        return Slot(type(self._sim.data)(self._sim.model))

    def reset(self, slot: Slot, number: int) -> None:
        """Begin from an initial state: set it, and let things settle."""
        if number not in self._starts:
            self._play_start(slot, number)
            assert slot.moment is not None
            self._starts[number] = slot.moment, self.roles.grasp(slot.data._data) if self.roles else None
        start, slot.grasp = self._starts[number]
        self.restore(slot, start)

    def _play_start(self, slot: Slot, number: int) -> None:
        self._set_physics(slot.data._data, self._start)
        self._sim.data = slot.data
        self._sim.set_state_from_flattened(self.init_states[number])
        # The original samples all sensors after the reset, and again after setting the state: its clock ticked twice.
        slot.clock = Clock(2 * Clock.timestep, True)
        slot.grip, slot.alpha, slot.grasp = np.zeros(2), self._start_alpha, None
        slot.goal_pos, slot.goal_ori = self._start_controller["goal_pos"], self._start_controller["goal_ori"]
        self._enter(slot)
        # In the first physics step the original's controller still believes the arm to be where the reset put it.
        vars(self._controller).update(self._start_controller)
        self._post_process(slot)
        self._act(slot, _REST)
        for _ in range(SETTLE - 1):
            self.step(slot, _REST)

    def step(self, slot: Slot, action: np.ndarray) -> bool:
        """Apply LIBERO's own action [7] for one control step; returns whether the task is solved."""
        self._enter(slot)
        self._act(slot, action)
        return bool(self.env._check_success())

    def restore(self, slot: Slot, moment: Moment) -> None:
        """Go back to when an observation was sampled, and on to the end of its control step."""
        self._set_physics(slot.data._data, moment.physics)
        slot.goal_pos, slot.goal_ori, slot.grip = moment.goal_pos, moment.goal_ori, moment.grip
        slot.clock, slot.alpha = Clock(*moment.clock), moment.alpha
        self._enter(slot)
        self._act(slot, moment.action, moment.substep)

    def seen(self, slot: Slot, data: mujoco.MjData) -> None:
        """Put `data` into the moment of the slot's observation, for a camera to look at.

        As the original renders them: bodies where they stood before the last physics step.
        """
        assert slot.moment is not None
        self._set_physics(data, slot.moment.physics)
        mujoco.mj_fwdPosition(self.model, data)
        self.model.site_rgba[:, 3] = slot.moment.alpha

    # What there is ------------------------------------------------------------------------------------------------

    @property
    def moment_size(self) -> int:
        """Length of `Moment.to_vector`."""
        return 24 + len(self._start_alpha) + len(self._start)

    def moment(self, vector: np.ndarray) -> Moment:
        """Undo `Moment.to_vector`."""
        return Moment.from_vector(vector, len(self._start_alpha), len(self._start))

    def names(self, modality: str) -> list[str]:
        """Name the entries of ``<modality>-state``, e.g. ``robot0_eef_pos.x``."""
        sensors = [(n, s) for n, s in self.env._observables.items() if s.modality == modality and s.is_active()]
        return [
            f"{name}.{_AXES.get(name.rpartition('_')[2], {}).get(i, i)}"
            for name, sensor in sensors
            for i in range(int(np.prod(sensor._data_shape)))
        ]

    # One control step ---------------------------------------------------------------------------------------------

    def _enter(self, slot: Slot) -> None:
        """Have robosuite's objects act on this slot."""
        self._sim.data = slot.data
        self._controller.goal_pos, self._controller.goal_ori = slot.goal_pos, slot.goal_ori
        self._controller.new_update = True
        self._gripper.current_action = slot.grip
        self.model.site_rgba[:, 3] = slot.alpha

    def _act(self, slot: Slot, action: np.ndarray, first: int = 0) -> None:
        """The physics steps of a control step, from the first one or from a later one that was remembered."""
        model, data, controller = self.model, slot.data._data, self._controller
        for substep in range(first, SUBSTEPS):
            before = (slot.clock.time, slot.clock.sampled)
            samples = slot.clock.tick()
            if samples:
                slot.moment = Moment(
                    self._get_physics(data), controller.goal_pos, controller.goal_ori, self._gripper.current_action,
                    before, slot.alpha, action, substep,
                )  # fmt: skip
            mujoco.mj_step1(model, data)
            if substep == 0:
                controller.set_goal(action[:6])
            torques = controller.run_controller()
            data.ctrl[self._arm] = np.clip(torques, *self._torques)
            data.ctrl[self._fingers] = self._finger_bias + self._finger_weight * self._gripper.format_action(action[6:])
            mujoco.mj_step2(model, data)
            if samples:
                slot.obs = self._sample()
                if self.roles and slot.grasp:
                    slot.scene = self.roles.scene(data, slot.grasp)
        slot.goal_pos, slot.goal_ori = controller.goal_pos, controller.goal_ori
        slot.grip = self._gripper.current_action
        self._post_process(slot)

    def _post_process(self, slot: Slot) -> None:
        self.env._post_process()
        slot.alpha = self.model.site_rgba[:, 3].copy()

    def _update_controller(self, force: bool = False) -> None:
        """`Controller.update` after `mj_step1`, which has computed all that it reads."""
        c = self._controller
        if not (c.new_update or force):
            return
        data, nv = self._sim.data._data, self.model.nv
        c.ee_pos = np.array(data.site_xpos[self._site])
        c.ee_ori_mat = np.array(data.site_xmat[self._site].reshape([3, 3]))
        jac_pos, jac_ori = np.zeros((3, nv)), np.zeros((3, nv))
        mujoco.mj_jacSite(self.model, data, jac_pos, jac_ori, self._site)
        c.ee_pos_vel, c.ee_ori_vel = np.dot(jac_pos, data.qvel), np.dot(jac_ori, data.qvel)
        c.joint_pos, c.joint_vel = np.array(data.qpos[c.qpos_index]), np.array(data.qvel[c.qvel_index])
        c.J_pos, c.J_ori = np.array(jac_pos[:, c.qvel_index]), np.array(jac_ori[:, c.qvel_index])
        c.J_full = np.array(np.vstack([c.J_pos, c.J_ori]))
        mass = np.zeros((nv, nv))
        mujoco.mj_fullM(self.model, data, mass)
        c.mass_matrix = mass[c.qvel_index, :][:, c.qvel_index]
        c.new_update = False

    def _sample(self) -> dict[str, np.ndarray]:
        """Ask every sensor, as `MujocoEnv._get_observations` does."""
        cache: dict[str, np.ndarray] = {}
        obs: dict[str, np.ndarray] = {}
        groups: dict[str, list[np.ndarray]] = {}
        for name, sensor in self.env._observables.items():
            value = np.array(sensor._sensor(cache))
            value = value[0] if value.shape == (1,) else value
            cache[name] = np.array(value)
            if sensor.is_active():
                obs[name] = value
                groups.setdefault(f"{sensor.modality}-state", []).append(np.atleast_1d(value))
        return obs | {name: np.concatenate(values, axis=-1) for name, values in groups.items()}

    def _get_physics(self, data: mujoco.MjData) -> np.ndarray:
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, data, state, _STATE)
        return state

    def _set_physics(self, data: mujoco.MjData, state: np.ndarray) -> None:
        mujoco.mj_setState(self.model, data, state, _STATE)


def import_envs() -> Any:
    """Import LIBERO's environments without OpenGL.

    robosuite chooses a renderer when it is imported, EGL unless told otherwise, and fails where that is missing. Its
    macros, read before the rest of it, say otherwise.
    """
    root = importlib.util.find_spec("robosuite")
    assert root is not None and root.submodule_search_locations
    if "robosuite.macros" not in sys.modules:
        path = os.path.join(root.submodule_search_locations[0], "macros.py")
        spec = importlib.util.spec_from_file_location("robosuite.macros", path)
        assert spec is not None and spec.loader is not None
        macros = importlib.util.module_from_spec(spec)
        sys.modules["robosuite.macros"] = macros
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(macros)
        macros.MUJOCO_GPU_RENDERING = False  # type: ignore[attr-defined]
    os.environ["MUJOCO_GL"] = "disabled"
    return importlib.import_module("libero.libero.envs.env_wrapper")
