"""Simulations as a `VectorEnv`: episodes, seeds and resets, the same for worker processes and a simulation on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from envs.base import Episodes, Step, VectorEnv
from envs.errors import NonFiniteError
from envs.simulation import Backend


class EpisodicEnv(VectorEnv):
    """N environments on top of simulations.

    An episode is terminated by success alone: in ManiSkill's own terms a failure ends it too, but with a reward in
    [-1, 0] that would reward failing early, so a failed episode runs until its time is over. With `ignore_terminations`, it
    always does.

    Seeds: the first episode of environment i is that of `seed + i`; its later ones have seeds derived from that. On the
    CPU every episode is a function of its seed. On a GPU only the first ones are: episodes that begin together later
    are drawn together (see `envs.maniskill.gpu.DeviceSim.reset`).

    Resume: `load_state_dict` begins each running episode anew from its seed, and then moves everything to where it was.
    Where a simulator does not expose contact forces and solver caches, as ManiSkill, the continuation agrees to rounding
    errors that contact amplifies, not bit by bit: `exact_resume` is then False.

    Args:
        backend: the simulations.
        device: where observations and rewards shall be.
        instruct: what the task of an episode is, in words, by the episode's seed.
        to_scene: lays out the simulator's own ``scene`` [N, D] as `envs.privileged.Scene` [N, Scene.dim].
        exact_resume: whether restored simulations continue bit by bit.
        ignore_terminations: whether a solved episode goes on until its time is over.
    """

    def __init__(
        self,
        backend: Backend,
        device: torch.device,
        instruct: Callable[[int], str],
        to_scene: Callable[[Tensor], Tensor] = lambda scene: scene.clone(),
        exact_resume: bool = False,
        ignore_terminations: bool = False,
    ) -> None:
        self.backend = backend
        self.device = device
        self.spec = backend.spec
        self.num_envs = backend.num_envs
        self.exact_resume = exact_resume
        self._instruct, self._to_scene = instruct, to_scene
        self._ends_solved = not ignore_terminations
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
        """What each environment shall do, N strings."""
        return [self._instruct(self._episode_seed(env)) for env in range(self.num_envs)]

    def reset(self, seed: int, stagger: bool = False) -> TensorDict:
        """Start the episodes of seeds `seed`, `seed + 1`, ..."""
        self._seed[:] = seed + np.arange(self.num_envs)
        self._count[:] = 0
        everyone = list(range(self.num_envs))
        self._clear(torch.arange(self.num_envs, device=self.device))
        if stagger:
            spread = [derive_seed(s, 0) % self.spec.max_episode_steps for s in self._seed.tolist()]
            self._limit -= torch.tensor(spread, device=self.device)
        return self._checked(self.backend.reset(everyone, self._seed.tolist(), exact=True))

    def step(self, action: Tensor) -> Step:
        """Step every environment; those whose episode ends begin the next one."""
        if not torch.isfinite(action).all():
            raise NonFiniteError("policy", f"actions of environments {_rows(~torch.isfinite(action).all(-1))}")
        outcome = self.backend.step(action.detach().to(self.backend.device, torch.float32).clamp(-1, 1))
        reward = outcome.reward.to(self.device, torch.float32, copy=True)
        success = outcome.success.to(self.device, copy=True)
        obs = self._checked(outcome.obs, reward)
        self._return += reward
        self._length += 1
        self._solved_after = torch.where(success & ~self._success_once, self._length, self._solved_after)
        self._success_once |= success
        terminated = success if self._ends_solved else torch.zeros_like(success)
        truncated = (self._length >= self._limit) & ~terminated
        env = (terminated | truncated).nonzero().squeeze(-1)
        if len(env) == 0:
            return Step(obs, reward, terminated, truncated, None, None)
        ended = env.tolist()
        episode = Episodes(
            env=env,
            ret=self._return[env],
            length=self._length[env],
            success_once=self._success_once[env],
            success_at_end=success[env],
            seed=torch.tensor([self._episode_seed(e) for e in ended], device=self.device),
            solved_after=None if self._ends_solved else self._solved_after[env],
        )
        final_obs = obs[env]
        self._count[ended] += 1
        self._clear(env)
        fresh = self._checked(self.backend.reset(ended, [self._episode_seed(e) for e in ended], exact=False))
        obs[env] = fresh[env]
        return Step(obs, reward, terminated, truncated, final_obs, episode)

    def look(self, envs: Tensor | None = None) -> dict[str, Tensor]:
        """See `VectorEnv.look`."""
        images = self.backend.look(list(range(self.num_envs)) if envs is None else envs.tolist())
        return {key: image.to(self.device, copy=True) for key, image in images.items()}

    def render(self, envs: list[int] | None = None, size: int = 256) -> Tensor:
        """Look through the simulator's camera for people."""
        frames = self.backend.render(list(range(self.num_envs)) if envs is None else envs).cpu()
        if frames.shape[1:3] == (size, size):
            return frames.clone()
        planes = frames.permute(0, 3, 1, 2).float()
        planes = F.interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False)
        return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    def state_dict(self) -> dict[str, Tensor]:
        """Simulation state, seeds and what is known of the running episodes."""
        return {
            "sim": self.backend.get_state().cpu(),
            "seed": torch.from_numpy(self._seed.copy()),
            "count": torch.from_numpy(self._count.copy()),
        } | {name: getattr(self, f"_{name}").cpu().clone() for name in _BOOKS}

    def load_state_dict(self, state: dict[str, Tensor]) -> TensorDict:
        """Restore `state_dict`, up to rounding errors."""
        self._seed[:], self._count[:] = state["seed"].numpy(), state["count"].numpy()
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
        """Copy observations out of the backend and express scenes in the robot's frame; refuse what is not finite."""
        obs = {k: self._to_scene(v.to(self.device)) if k == "scene" else v.to(self.device, copy=True) for k, v in raw.items()}
        if "scene" in obs:
            obs["privileged"] = obs.pop("scene")
        numbers: dict[str, Any] = {k: v for k, v in obs.items() if v.is_floating_point()}
        if reward is not None:
            numbers["reward"] = reward[:, None]
        finite = {key: torch.isfinite(value).all(-1) for key, value in numbers.items()}
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
        bad = [n for n, v in zip(self.spec.state_names, raw["state"][env].tolist(), strict=True) if not np.isfinite(v)]
        return f"{where}, entries {', '.join(bad[:6])}"


_BOOKS = ("return", "length", "limit", "success_once")
"""Tensors of `EpisodicEnv` that a checkpoint holds as they are."""


def derive_seed(first: int, count: int) -> int:
    """Return the seed of an environment's episode number `count`, a 32-bit hash of its first episode's seed."""
    return int(np.random.SeedSequence((first, count)).generate_state(1)[0])


def _rows(mask: Tensor) -> str:
    return ", ".join(str(i) for i in mask.nonzero().squeeze(-1).tolist()[:8])
