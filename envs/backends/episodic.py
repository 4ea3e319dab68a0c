"""`VectorEnv` on top of simulations: episodes, seeds and resets, for worker processes and for one GPU simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from rpd.envs.backends.protocol import Backend
from rpd.envs.errors import NonFiniteError
from rpd.envs.finite import entries, is_valid
from rpd.envs.vector_env import EpisodeInfo, Step, VectorEnv


class EpisodicEnv(VectorEnv):
    """N environments on top of simulations.

    An episode terminates on success alone, unless the backend reports terminations (Gymnasium). ManiSkill also terminates on
    failure, but with a reward in [-1, 0] that would reward failing early, so a failed episode runs until it is truncated. With
    `ignore_terminations`, every episode does.

    Seeds: the first episode of environment i after `reset` has seed `seed + i`; the seeds of its later episodes derive from
    that. On the CPU, first episodes are bit-exact functions of their seeds, and so are later ones, except on ManiSkill:
    there the seed determines the initial state, and contact caches that PhysX keeps from earlier episodes (see
    `rpd.envs.maniskill.sim.Sim.reset`) change the episode slightly from the first contact on. On a GPU, the seed determines
    the initial state of first episodes; later episodes that begin in the same step are sampled as one batch (see
    `rpd.envs.maniskill.gpu.DeviceSim.reset`), and GPU physics is not deterministic.

    Resume: `load_state_dict` restarts each running episode from its seed and then restores the saved simulation state. A
    simulator that does not expose contact forces and solver caches, such as ManiSkill, continues up to rounding errors,
    which contacts amplify: `exact_resume` is then False. With a backend that cannot save its state, the next episodes start.

    Args:
        backend: the simulations.
        device: device of observations and rewards.
        instruct: returns the language instruction of an episode, given its seed.
        to_scene: converts the simulator's own ``scene`` [N, D] to a `ManipulationState` [N, ManipulationState.dim].
        ignore_terminations: whether a solved episode continues until it is truncated.
        cuts: whether episodes are truncated here, at their maximum length. False: the backend does that, and starts the next
            episode by itself.
    """

    def __init__(
        self,
        backend: Backend,
        device: torch.device,
        instruct: Callable[[int], str],
        to_scene: Callable[[Tensor], Tensor] = lambda scene: scene.clone(),
        ignore_terminations: bool = False,
        cuts: bool = True,
    ) -> None:
        self.backend = backend
        self.device = device
        self.spec = backend.spec
        self.num_envs = backend.num_envs
        self.exact_resume = backend.exact_resume
        self._instruct, self._to_scene = instruct, to_scene
        self._ends_solved, self._cuts = not ignore_terminations, cuts
        n = self.num_envs
        self._seed = np.zeros(n, np.int64)  # of the first episode
        self._count = np.zeros(n, np.int64)  # episodes since
        self._return = torch.zeros(n, device=device)
        self._length = torch.zeros(n, dtype=torch.int64, device=device)
        self._limit = torch.full((n,), self.spec.max_episode_steps, dtype=torch.int64, device=device)
        self._success_once = torch.zeros(n, dtype=torch.bool, device=device)
        self._solved_after = torch.zeros(n, dtype=torch.int64, device=device)

    @property
    def instructions(self) -> list[str]:
        """Language instruction of each environment, N strings."""
        return [self._instruct(self._episode_seed(env)) for env in range(self.num_envs)]

    def reset(self, seed: int, random_start_length: bool = False) -> TensorDict:
        """Start the episodes with seeds `seed`, `seed + 1`, ..."""
        self._seed[:] = seed + np.arange(self.num_envs)
        self._count[:] = 0
        everyone = list(range(self.num_envs))
        self._clear(torch.arange(self.num_envs, device=self.device))
        if random_start_length:
            spread = [derive_seed(s, 0) % self.spec.max_episode_steps for s in self._seed.tolist()]
            self._limit -= torch.tensor(spread, device=self.device)
        return self._checked(self.backend.reset(everyone, self._seed.tolist(), exact=True))

    def step(self, action: Tensor) -> Step:
        """Step every environment; environments whose episode ends begin the next one."""
        if not torch.isfinite(action).all():
            raise NonFiniteError("policy", f"actions of environments {_rows(~torch.isfinite(action).all(-1))}")
        outcome = self.backend.step(action.detach().to(self.backend.device, torch.float32).clamp(-1, 1))
        reward = outcome.reward.to(self.device, torch.float32, copy=True)
        success = outcome.success.to(self.device, copy=True)
        obs = self._checked(outcome.obs, reward)
        self._return += reward
        self._length += 1 if outcome.idle is None else (~outcome.idle).to(self.device)
        self._solved_after = torch.where(success & ~self._success_once, self._length, self._solved_after)
        self._success_once |= success
        ended = success if outcome.terminated is None else outcome.terminated.to(self.device, copy=True)
        terminated = ended if self._ends_solved else torch.zeros_like(ended)
        late = (self._length >= self._limit) & self._cuts
        truncated = (late if outcome.truncated is None else late | outcome.truncated.to(self.device)) & ~terminated
        env = (terminated | truncated).nonzero().squeeze(-1)
        if len(env) == 0:
            return Step(obs, reward, terminated, truncated, None, None)
        rows = env.tolist()
        episode = EpisodeInfo(
            env=env,
            episode_return=self._return[env],
            length=self._length[env],
            success_once=self._success_once[env],
            success_at_end=success[env],
            seed=torch.tensor([self._episode_seed(e) for e in rows], device=self.device),
            solved_after=self._solved_after[env],
        )
        final_obs = obs[env]
        self._count[rows] += 1
        self._clear(env)
        fresh = self._checked(self.backend.reset(rows, [self._episode_seed(e) for e in rows], exact=False))
        obs[env] = fresh[env]
        return Step(obs, reward, terminated, truncated, final_obs, episode)

    def teacher_images(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """See `VectorEnv.teacher_images`."""
        images = self.backend.teacher_images(list(range(self.num_envs)) if envs is None else envs.tolist())
        return {key: image.to(self.device, copy=True) for key, image in images.items()}

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """Render from the simulator's viewer camera."""
        frames = self.backend.render(list(range(self.num_envs)) if envs is None else envs).cpu()
        if frames.shape[1:3] == (size, size):
            return frames.clone()
        planes = frames.permute(0, 3, 1, 2).float()
        planes = F.interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    def state_dict(self) -> dict[str, Tensor]:
        """Simulation state, seeds, and statistics of the running episodes."""
        return {
            "sim": self.backend.get_state().cpu(),
            "seed": torch.from_numpy(self._seed.copy()),
            "count": torch.from_numpy(self._count.copy()),
        } | {name: getattr(self, f"_{name}").cpu().clone() for name in _BOOKS}

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """Restore `state_dict`: exactly, up to rounding errors, or, if the backend has no state, at the next episodes."""
        self._seed[:], self._count[:] = state["seed"].numpy(), state["count"].numpy()
        if state["sim"].numel() == 0:
            self._count += 1
            self._clear(torch.arange(self.num_envs, device=self.device))
            seeds = [self._episode_seed(env) for env in range(self.num_envs)]
            return self._checked(self.backend.reset(list(range(self.num_envs)), seeds, exact=True))
        for name in _BOOKS:
            getattr(self, f"_{name}").copy_(state[name])
        seeds = [self._episode_seed(env) for env in range(self.num_envs)]
        return self._checked(self.backend.set_state(state["sim"].to(self.backend.device), seeds))

    def close(self) -> None:
        """End worker processes, or release the device."""
        self.backend.close()

    def _episode_seed(self, env: int) -> int:
        first, count = int(self._seed[env]), int(self._count[env])
        return first if count == 0 else derive_seed(first, count)

    def _clear(self, env: Tensor) -> None:
        self._return[env] = 0
        self._length[env] = 0
        self._success_once[env] = False
        self._limit[env] = self.spec.max_episode_steps

    def _checked(self, raw: dict[str, Tensor], reward: Tensor | None = None) -> TensorDict:
        """Copy observations out of the backend, convert scenes to `ManipulationState`, and raise on non-finite values."""
        obs = {k: self._to_scene(v.to(self.device)) if k == "scene" else v.to(self.device, copy=True) for k, v in raw.items()}
        if "scene" in obs:
            obs["privileged"] = obs.pop("scene")
        numbers: dict[str, Any] = {k: v for k, v in obs.items() if v.is_floating_point()}
        if reward is not None:
            numbers["reward"] = reward[:, None]
        finite = {key: is_valid(value).all(-1) for key, value in numbers.items()}
        if not torch.stack(list(finite.values())).all():
            for key, good in finite.items():
                if not good.all():
                    bad = (~good).nonzero()[0].item()
                    raise NonFiniteError(
                        "environment", f"{key} of environments {_rows(~good)}; {self._evidence(key, raw, int(bad))}"
                    )
        return TensorDict(obs, batch_size=[self.num_envs], device=self.device)

    def _evidence(self, key: str, raw: dict[str, Tensor], env: int) -> str:
        where = f"episode seed {self._episode_seed(env)}, step {int(self._length[env]) + 1}"
        if key != "state":
            return where
        state = raw["state"][env].cpu()[None]
        return f"{where}, entries {entries(state, ~is_valid(state), self.spec.state_names)}"


_BOOKS = ("return", "length", "limit", "success_once")
"""Tensors of `EpisodicEnv` that are saved in a checkpoint unchanged."""


def derive_seed(first: int, count: int) -> int:
    """Return the seed of episode number `count` of an environment: a 32-bit hash of the seed of its first episode."""
    return int(np.random.SeedSequence((first, count)).generate_state(1)[0])


def _rows(mask: Tensor) -> str:
    return ", ".join(str(i) for i in mask.nonzero().squeeze(-1).tolist()[:8])
