"""A LIBERO task compiled once, stepped and reset without robosuite's redundant work.

Results are bit-identical to the original (`tests/envs/test_libero.py`). Three optimizations:

- robosuite computes the dynamics three times per physics step (before the controller, in it, and in the step itself), from the
  same state with the same result. Here `mj_step1` computes them once, the controller reads them, and `mj_step2` continues.
- robosuite updates every sensor in every physics step, but samples once per control step. Here sensors are evaluated only then.
- robosuite recompiles the model for every episode. Here the start of an episode is cached after its first use.

Several environments share a world. Each has a `Slot` with the state that differs between environments of one task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from rpd.envs.errors import ConfigError
from rpd.envs.libero import distribution, settled, tasks
from rpd.envs.libero.controller import modernize, read_state
from rpd.envs.libero.scene import Grasp, Roles, roles_of
from rpd.envs.robosuite import headless

SUBSTEPS = 25
"""Physics steps of 2 ms per control step."""
SETTLE = 10
"""Control steps with open fingers and no motion before an episode, in which objects settle."""
RESET_SEED = 0
"""numpy's global seed before every reset. Determines the fixture poses, which initial states do not contain (as in OpenVLA's
evaluation)."""
INSTALLED = "installed"
"""Value of `World.settled_with` for the installed MuJoCo."""
_OPEN = np.array([1.0, -1.0])  # finger command at the end of settling
_REST = np.array([0, 0, 0, 0, 0, 0, -1.0])
_AXES = {"quat": dict(enumerate(("qx", "qy", "qz", "qw")))}
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class Clock:
    """Sampling clock of robosuite's sensors: once per period, at its first physics step, with the same rounding errors."""

    period, timestep = 0.05, 0.002

    def __init__(self, time: float = 0.0, sampled: bool = False) -> None:
        self.time, self.sampled = time, sampled

    def tick(self) -> bool:
        """Advance by one physics step; returns whether sensors sample at its end (`robosuite.utils.observables`)."""
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
    """Full state before the physics step at whose end an observation was sampled.

    Attributes:
        physics: MuJoCo's integration state.
        goal_pos: [3] goal position of the controller.
        goal_ori: [3, 3] goal orientation of the controller.
        grip: [2] finger command, which changes slowly.
        clock: time, and whether the period has been sampled.
        alpha: visibility of each site, e.g. the flame of a stove.
        action: [7] in LIBERO's convention.
        substep: index of the physics step in its control step.
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
        """Flatten to [D] float64."""
        parts = (self.goal_pos, self.goal_ori.ravel(), self.grip, self.clock, self.action, [self.substep])
        return np.concatenate([*parts, self.alpha, self.physics]).astype(np.float64)

    @classmethod
    def from_vector(cls, vector: np.ndarray, sites: int, size: int) -> Moment:
        """Inverse of `to_vector`; entries beyond the world's state size are padding."""
        ends = np.cumsum([3, 9, 2, 2, 7, 1, sites, size])
        pos, ori, grip, clock, action, substep, alpha, physics = np.split(vector[: ends[-1]], ends[:-1])
        return cls(physics, pos, ori.reshape(3, 3), grip, (float(clock[0]), bool(clock[1])), alpha, action, int(substep[0]))


@dataclass
class Slot:
    """State of one environment in a world."""

    data: Any
    """robosuite's wrapper of the environment's own MjData."""
    clock: Clock = field(default_factory=Clock)
    moment: Moment | None = None
    """State when the observation was sampled."""
    obs: dict[str, np.ndarray] = field(default_factory=dict)
    """Observation, with robosuite's names."""
    grasp: Grasp | None = None
    """Grasp of the object to move, in tasks that move one."""
    scene: np.ndarray | None = None
    """See `rpd.envs.libero.scene.Roles.scene`."""
    goal_pos: np.ndarray = field(default_factory=lambda: np.zeros(3))
    goal_ori: np.ndarray = field(default_factory=lambda: np.eye(3))
    grip: np.ndarray = field(default_factory=lambda: np.zeros(2))
    alpha: np.ndarray = field(default_factory=lambda: np.zeros(0))


def _last_sample() -> tuple[tuple[float, bool], int]:
    """Sensor clock before, and index of, the physics step with the last observation during settling."""
    clock, last = Clock(2 * Clock.timestep, True), ((0.0, False), 0)
    for step in range(SETTLE * SUBSTEPS):
        before = (clock.time, clock.sampled)
        last = (before, step % SUBSTEPS) if clock.tick() else last
    return last


class World:
    """A LIBERO task, shared by several environments.

    Args:
        task: the task.
        settled_with: see `rpd.envs.config.EnvConfig.settled_with`.

    Attributes:
        settled_with: resolved value of the argument.

    Raises:
        ConfigError: files are missing, or stored states were requested and there are none.
    """

    def __init__(self, task: tasks.Task, settled_with: str | None = None) -> None:
        wrapper = import_envs().ControlEnv(
            bddl_file_name=str(tasks.bddl_file(task)),
            has_renderer=False,
            has_offscreen_renderer=False,  # no OpenGL before workers are forked
            use_camera_obs=False,
        )
        self.task = task
        self.env = wrapper.env
        self.init_states = tasks.initial_states(task)
        self._settled = None if settled_with == INSTALLED else settled.load(task.suite, task.number, self.init_states)
        if self._settled is None and settled_with == settled.VERSION:
            raise ConfigError(f"{task.name}: no states settled with MuJoCo {settled.VERSION}: use settled_with {INSTALLED}")
        self.settled_with = INSTALLED if self._settled is None else settled.VERSION
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
        """Cache the indices that robosuite looks up by name in every physics step."""
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
        """Allocate the state of another environment."""
        return Slot(type(self._sim.data)(self._sim.model))

    def reset(self, slot: Slot, number: int) -> None:
        """Start from an initial state, with objects settled."""
        if number not in self._starts:
            if self._settled is None:
                self.settle(slot, number)
            else:
                self._recall(slot, settled.Start.from_vector(self._settled[number], self.model.nq))
            assert slot.moment is not None
            self._starts[number] = slot.moment, self.roles.grasp(slot.data._data) if self.roles else None
        start, slot.grasp = self._starts[number]
        self.restore(slot, start)

    def _recall(self, slot: Slot, start: settled.Start) -> None:
        """Restore a state settled with another version of MuJoCo."""
        data = slot.data._data
        self._set_physics(data, self._start)
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = start.qpos, start.qvel, 0.0
        self._sim.data = slot.data
        slot.alpha, slot.grasp = self._start_alpha, None
        self._post_process(slot)  # shows the flame of a stove that is on
        clock, substep = _last_sample()
        physics = self._get_physics(data)
        self.restore(slot, Moment(physics, start.goal_pos, start.goal_ori, _OPEN, clock, slot.alpha, _REST, substep))

    def settle(self, slot: Slot, number: int) -> None:
        """Set an initial state and run the settling steps of the protocol with the installed MuJoCo."""
        self._set_physics(slot.data._data, self._start)
        self._sim.data = slot.data
        self._sim.set_state_from_flattened(self.init_states[number])
        # The original samples all sensors after the reset and again after setting the state: its clock has ticked twice.
        slot.clock = Clock(2 * Clock.timestep, True)
        slot.grip, slot.alpha, slot.grasp = np.zeros(2), self._start_alpha, None
        slot.goal_pos, slot.goal_ori = self._start_controller["goal_pos"], self._start_controller["goal_ori"]
        self._enter(slot)
        # In the first physics step, the original's controller still has the arm state of the reset.
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
        """Return to the time at which an observation was sampled, and continue to the end of its control step."""
        self._set_physics(slot.data._data, moment.physics)
        slot.goal_pos, slot.goal_ori, slot.grip = moment.goal_pos, moment.goal_ori, moment.grip
        slot.clock, slot.alpha = Clock(*moment.clock), moment.alpha
        self._enter(slot)
        self._act(slot, moment.action, moment.substep)

    def seen(self, slot: Slot, data: mujoco.MjData) -> None:
        """Copy the state of the slot's observation to `data`, for rendering.

        As in the original: body poses before the last physics step.
        """
        assert slot.moment is not None
        self._set_physics(data, slot.moment.physics)
        mujoco.mj_fwdPosition(self.model, data)
        self.model.site_rgba[:, 3] = slot.moment.alpha

    # Names and sizes ----------------------------------------------------------------------------------------------

    @property
    def moment_size(self) -> int:
        """Length of `Moment.to_vector`."""
        return 24 + len(self._start_alpha) + len(self._start)

    def moment(self, vector: np.ndarray) -> Moment:
        """Inverse of `Moment.to_vector`."""
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
        """Attach robosuite's objects to this slot."""
        self._sim.data = slot.data
        self._controller.goal_pos, self._controller.goal_ori = slot.goal_pos, slot.goal_ori
        self._controller.new_update = True
        self._gripper.current_action = slot.grip
        self.model.site_rgba[:, 3] = slot.alpha

    def _act(self, slot: Slot, action: np.ndarray, first: int = 0) -> None:
        """Run the physics steps of a control step, from the first one or from `first`."""
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
        """`Controller.update` after `mj_step1`, which has computed its inputs."""
        c = self._controller
        if not (c.new_update or force):
            return
        read_state(c, self.model, self._sim.data._data, self._site)
        c.new_update = False

    def _sample(self) -> dict[str, np.ndarray]:
        """Evaluate every sensor, as `MujocoEnv._get_observations` does."""
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


def import_envs() -> ModuleType:
    """Import LIBERO's environments without OpenGL."""
    headless.prepare()
    wrapper = distribution.environments()
    modernize()
    return wrapper
