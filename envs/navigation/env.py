"""N arenas stepped as a batch in numpy: bases drive to a goal pose among obstacles, observed by a range finder."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.backends.numpy_env import ArrayEnv, episode_arrays, finite_action
from rpd.envs.config import EnvConfig
from rpd.envs.navigation.arenas import CANDIDATES, INSTRUCTION, LEVELS, endpoints
from rpd.envs.navigation.bases import BASES, COMMAND, CONTROL_HZ, advance, to_body, track, wrap
from rpd.envs.navigation.geometry import Array, Mask, cast, nearest
from rpd.envs.navigation.render import Picture, draw
from rpd.envs.navigation.shortest_paths import Routes
from rpd.envs.seeding import uniforms
from rpd.envs.specs import EnvSpec, ObsSpec
from rpd.envs.vector_env import Step

RAYS, REACH = 32, 5.0  # rays around the base, the first one forward; maximum range, m
MAX_STEPS = 256  # 25.6 s: horizon of COMPASS's evaluation
# Success as in COMPASS: near the goal, aligned with its heading, and standing still.
NEAR, ALIGNED, STILL, STILL_YAW = 0.5, 0.1, 0.1, 0.1  # m, rad, m/s, rad/s

# Dense reward: progress along the path, near the goal also rotation toward its heading, minus a time penalty.
PROGRESS = 0.2  # per m
TURN = 1.0  # weight of the heading error at the goal, m/rad
ENOUGH = 0.3  # distance below which progress gives no reward, m
TIME = 1.0 / MAX_STEPS  # penalty per step
SUCCESS, COLLISION = 1.0, 1.0

_PRIVATE = 16  # first stream of `rpd.envs.seeding.uniforms` for the steps of an episode
_SCALE = np.array(COMMAND.scale)


def state_names() -> tuple[str, ...]:
    """Name each entry of ``state``; all are of order one.

    Ranges are in units of `REACH`, counterclockwise. The goal is in the base frame: direction, distance in units of `REACH`
    and as exp(-distance / NEAR), and heading. Velocity and last command are in units of a full command.
    """
    goal = ("cos", "sin", "distance", "near", "heading_cos", "heading_sin")
    return (
        *(f"range.{i:02d}" for i in range(RAYS)),
        *(f"goal.{name}" for name in goal),
        *(f"velocity.{name}" for name in COMMAND.names),
        *(f"command.{name}" for name in COMMAND.names),
    )


class NavigateEnv(ArrayEnv):
    """A level with a base, N times. See `rpd.envs.vector_env.VectorEnv` for the interface.

    An action is a velocity command, tracked with the lag and limits of the base. An episode ends at the goal (success), at a
    collision, or at the time limit.
    """

    def __init__(self, task: str, config: EnvConfig, device: torch.device) -> None:
        """Build from a validated task name; see `rpd.envs.registry.make` for the arguments."""
        self.num_envs, self.device = config.num_envs, device
        self.level, self.base = LEVELS[task.split("/", 1)[1]], BASES[config.robot or "wheeled"]
        names, n = state_names(), self.num_envs
        self.spec = EnvSpec(
            task=task,
            embodiment=self.base.embodiment(),
            observations={"state": ObsSpec(shape=(len(names),), dtype="float32")},
            state_names=names,
            state_scaled=(True,) * len(names),
            action=COMMAND,
            control_hz=CONTROL_HZ,
            max_episode_steps=config.max_episode_steps or MAX_STEPS,
            reward=config.reward,
            course=True,
        )
        self._obstacles = self.level.draw(np.zeros((n, self.level.numbers)))
        self._routes = Routes(n, self._obstacles.boxes.shape[1] + self._obstacles.discs.shape[1], self.base.radius)
        self._state: dict[str, np.ndarray] = {
            **episode_arrays(n),
            "pose": np.zeros((n, 3)),  # x, y, heading
            "twist": np.zeros((n, 3)),  # velocity in the base frame
            "command": np.zeros((n, 3)),  # last action, in [-1, 1]
            "goal": np.zeros((n, 3)),  # x, y, heading
            "boxes": self._obstacles.boxes,
            "discs": self._obstacles.discs,
        }
        self._length, self._way = np.zeros(n), np.zeros((n, 2))  # shortest path: length and first corner
        self._gap, self._nearest = np.zeros(n), np.zeros((n, 2))  # nearest surface: distance and displacement
        self._trail = np.full((n, self.spec.max_episode_steps + 1, 2), np.nan)  # for rendering only

    @property
    def instructions(self) -> list[str]:
        """See `VectorEnv.instructions`."""
        return [INSTRUCTION] * self.num_envs

    # Episodes -----------------------------------------------------------------------------------------------------

    def _begin(self, ids: np.ndarray, seeds: np.ndarray) -> None:
        """Start the episodes of `seeds` [K] in the arenas `ids` [K]."""
        self._clear(ids, seeds)
        s = self._state
        s["twist"][ids], s["command"][ids] = 0, 0
        drawn = self.level.draw(uniforms(seeds, self.level.numbers, stream=0))
        s["boxes"][ids], s["discs"][ids] = drawn.boxes, drawn.discs
        s["pose"][ids], s["goal"][ids] = endpoints(uniforms(seeds, 4 * CANDIDATES + 2, stream=1), drawn)
        self._arrange(ids)
        self._trail[ids] = np.nan
        self._trail[ids, 0] = s["pose"][ids, :2]

    def _arrange(self, ids: np.ndarray) -> None:
        """Update what depends on obstacles and goals of the arenas `ids` [K]."""
        self._routes.update(ids, self._obstacles.of(ids), self._state["goal"][ids, :2])
        self._locate(ids)

    def _locate(self, ids: np.ndarray) -> None:
        """Update what depends on the base positions in the arenas `ids` [K]."""
        position = self._state["pose"][ids, :2]
        self._length[ids], self._way[ids] = self._routes.query(position, ids)
        gap, way = nearest(position[:, None], self._obstacles.of(ids))
        self._gap[ids], self._nearest[ids] = gap[:, 0], way[:, 0]

    # A step -------------------------------------------------------------------------------------------------------

    def step(self, action: Tensor) -> Step:
        """See `VectorEnv.step`."""
        s = self._state
        s["command"] = finite_action(action)
        before, everyone = self._remaining(), np.arange(self.num_envs)
        s["twist"], mean = track(self.base, s["twist"], s["command"] * _SCALE, self._noise())
        s["pose"] = advance(s["pose"], mean)
        self._trail[everyone, s["elapsed"] + 1] = s["pose"][:, :2]
        self._locate(everyone)
        crashed = self._gap < self.base.radius
        success = self._arrived() & ~crashed
        if self.spec.reward == "sparse":
            reward = success.astype(np.float64)
        else:
            reward = PROGRESS * (before - self._remaining()) - TIME + SUCCESS * success - COLLISION * crashed
        return self._step(reward, success, success | crashed)

    def _noise(self) -> Array:
        """Standard normal numbers [N, 3], a function of episode and step (Box and Muller, 1958); zero for wheeled bases."""
        if not (self.base.sway or self.base.yaw_sway):
            return np.zeros((self.num_envs, 3))
        u = uniforms(self._state["seed"], 6, stream=_PRIVATE + self._state["elapsed"])
        return np.sqrt(-2 * np.log1p(-u[:, :3])) * np.cos(2 * np.pi * u[:, 3:])

    def _arrived(self) -> Mask:
        """[N] whether the base stands at its goal with the goal's heading."""
        s = self._state
        offset, turn = s["goal"][:, :2] - s["pose"][:, :2], wrap(s["goal"][:, 2] - s["pose"][:, 2])
        speed = np.sqrt((s["twist"][:, :2] ** 2).sum(axis=1))
        near = (offset**2).sum(axis=1) < NEAR**2
        return near & (np.abs(turn) < ALIGNED) & (speed < STILL) & (np.abs(s["twist"][:, 2]) < STILL_YAW)

    def _remaining(self) -> Array:
        """[N] remaining length of the shortest path, m, plus a heading term near the goal."""
        turn = np.abs(wrap(self._state["goal"][:, 2] - self._state["pose"][:, 2]))
        return np.maximum(self._length - ENOUGH, 0.0) + TURN * turn * np.exp(-self._length)

    # Observations -------------------------------------------------------------------------------------------------

    def _observe(self, ids: np.ndarray) -> TensorDict:
        """Current observation of the arenas `ids` [K]."""
        s = self._state
        pose, goal = s["pose"][ids], s["goal"][ids]
        heading = pose[:, 2]
        offset = to_body(goal[:, :2] - pose[:, :2], heading)
        distance = np.sqrt((offset**2).sum(axis=1, keepdims=True))
        turn = wrap(goal[:, 2] - heading)[:, None]
        entries = [
            self._ranges(ids) / REACH,
            offset / np.maximum(distance, 1e-6),
            distance / REACH,
            np.exp(-distance / NEAR),
            np.cos(turn),
            np.sin(turn),
            s["twist"][ids] / _SCALE,
            s["command"][ids],
        ]
        way, obstacle = to_body(self._way[ids] - pose[:, :2], heading), to_body(self._nearest[ids], heading)
        course = [offset, turn, s["twist"][ids], way, self._length[ids, None], obstacle]
        return TensorDict(
            {key: torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))
             for key, parts in (("state", entries), ("privileged", course))},
            batch_size=[len(ids)],
        ).to(self.device)  # fmt: skip

    def _ranges(self, ids: np.ndarray) -> Array:
        """Range measurements of the arenas `ids`: [K, RAYS], m."""
        pose = self._state["pose"][ids]
        return cast(pose[:, :2], pose[:, 2:] + np.arange(RAYS) * (2 * np.pi / RAYS), self._obstacles.of(ids), REACH)

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """See `VectorEnv.render`: top view, +y up."""
        ids = np.arange(self.num_envs) if envs is None else np.array(envs, dtype=np.int64)
        s, ranges = self._state, self._ranges(ids)
        pictures = [
            draw(Picture(
                self._obstacles.size, s["boxes"][i], s["discs"][i], s["pose"][i], s["goal"][i], self.base.radius,
                self._trail[i, : s["elapsed"][i] + 1], ranges[k],
            ), size)
            for k, i in enumerate(ids)
        ]  # fmt: skip
        return torch.from_numpy(np.stack(pictures))

    # Saving -------------------------------------------------------------------------------------------------------

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """See `VectorEnv.load_state_dict`. Paths are recomputed from the saved state; rendered trails restart."""
        self._restore(state)
        everyone = np.arange(self.num_envs)
        self._arrange(everyone)
        self._trail[:] = np.nan
        self._trail[everyone, self._state["elapsed"]] = self._state["pose"][:, :2]
        return self._observe(everyone)
