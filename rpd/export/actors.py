"""How an exported policy comes from what it sees to actions: numpy around networks. Part of the runtime, see `runtime`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Network = Callable[[Sequence[np.ndarray]], np.ndarray]
"""From inputs, in the order of the spec and batch first, to the output."""


class BadObservation(ValueError):
    """An observation that is not what the policy was trained on. The message says of which key, and what it has to be."""


class History:
    """The last W observations [N, ...] of N robots; the first of an episode stands for those before it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._past = self._fresh = np.zeros(0)  # [N, W, ...], and [N] whose episode begins

    def push(self, new: np.ndarray) -> np.ndarray:
        """Add an observation [N, ...]; returns the last W [N, W, ...], the newest last.

        Raises:
            BadObservation: of another number of robots than before.
        """
        if self.window == 1:
            return new[:, None]
        if not len(self._past):
            self._past, self._fresh = np.repeat(new[:, None], self.window, axis=1), np.ones(len(new), dtype=bool)
        if len(new) != len(self._past):
            raise BadObservation(f"observations of {len(new)} robots, and of {len(self._past)} before: reset() in between")
        moved = np.concatenate([self._past[:, 1:], new[:, None]], axis=1)
        self._past = np.where(self._fresh.reshape(-1, *[1] * new.ndim), new[:, None], moved)
        self._fresh = np.zeros(len(new), dtype=bool)
        return self._past

    def forget(self, mask: np.ndarray | None) -> None:
        """Begin new episodes where mask [N] is True; None: everywhere."""
        if mask is None or len(mask) != len(self._past):
            self._past = np.zeros(0)
        else:
            self._fresh = self._fresh | mask


class Direct:
    """One pass of the network per action."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def act(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Actions [N, A]."""
        return self._network(inputs)

    def answer(self, inputs: Sequence[np.ndarray], noise: np.ndarray | None) -> np.ndarray:
        """Actions [N, A], asked one by one, as a robot does."""
        return np.concatenate([self._network([rows[i : i + 1] for rows in inputs]) for i in range(len(inputs[0]))])

    def forget(self, mask: np.ndarray | None) -> None:
        """Nothing is remembered."""

    def seed(self, seed: int) -> None:
        """Nothing is random."""


class Denoising:
    """Chunks of actions, drawn by denoising where they are due, and executed; robot i is row i in every call.

    Args:
        settings: ``chunks`` in ``spec.json``. A chunk has ``horizon`` actions, of which ``execute`` are executed; it depends on
            the last ``n_obs`` observations. ``full`` is the way from noise to a chunk: for each step the level and the factors
            (a, s, of_clean, of_x, of_predicted, of_noise) of

                c = clip((x - s p) / a, -1, 1)
                x = of_clean c + of_x x + of_predicted p + of_noise z

            where p is what the network predicts and z is noise.

            The self-test begins at step ``start``. ``warm``, where there is one, is the way from the last chunk, moved on (RTI,
            arXiv 2508.05396); ``limit`` is the rms distance beyond which what comes of it is not trusted, and denoised in full.
            Actions are ``center`` + ``half`` x.
        networks: ``encoder``, from observations to features [N, F]; ``denoiser``, from x [N, H, A], level [N, H] and
            features [N, n_obs, F] to what x was made noisy with.
    """

    def __init__(self, settings: dict[str, Any], networks: Mapping[str, Network]) -> None:
        self._encode, self._denoise = networks["encoder"], networks["denoiser"]
        self._horizon, self._execute = settings["horizon"], settings["execute"]
        self._full, self._warm, self._start = settings["full"], settings["warm"], settings["start"]
        self._center, self._half = (np.array(settings[key], np.float32) for key in ("center", "half"))
        self._discrete = np.array(settings["discrete"])
        self._history = History(settings["n_obs"])
        self._begin(0)
        self.seed(0)

    def act(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Actions [N, A]."""
        context = self._history.push(self._encode(inputs))
        if len(self._left) != len(context):
            self._begin(len(context))
        due = np.flatnonzero(self._left == 0)
        if len(due):
            self._chunks[due] = self._drawn(context[due], self._chunks[due], self._known[due])
            self._left[due], self._known[due] = self._execute, True
        x = self._chunks[np.arange(len(context)), self._execute - self._left]
        self._left -= 1
        return self._executed(x)

    def answer(self, inputs: Sequence[np.ndarray], noise: np.ndarray | None) -> np.ndarray:
        """Chunks of actions [N, H, A] as at the beginning of an episode, from given x [N, H, A], and quietly."""
        assert noise is not None
        context = np.repeat(self._encode(inputs)[:, None], self._history.window, axis=1)
        return self._executed(self._walked(noise, context, self._full[self._start :], quiet=True))

    def forget(self, mask: np.ndarray | None) -> None:
        """Begin new episodes where mask [N] is True; None: everywhere."""
        self._history.forget(mask)
        if mask is None or len(mask) != len(self._left):
            self._begin(0)
        else:
            self._left[mask], self._known[mask] = 0, False

    def seed(self, seed: int) -> None:
        """Restart the noise."""
        self._random = np.random.default_rng(seed)

    def _begin(self, rows: int) -> None:
        """Remember nothing, of so many robots."""
        self._chunks = np.zeros((rows, self._horizon, len(self._discrete)), np.float32)
        self._left, self._known = np.zeros(rows, dtype=int), np.zeros(rows, dtype=bool)

    def _drawn(self, context: np.ndarray, last: np.ndarray, known: np.ndarray) -> np.ndarray:
        """New chunks [K, H, A]; `known` [K] says where `last` [K, H, A] is a chunk of this episode."""
        new, cold = np.empty_like(last), np.ones_like(known)
        if self._warm and known.any():
            guess = self._guess(last[known])
            new[known] = self._walked(guess, context[known], self._warm["steps"])
            cold[known] = self._distance(guess, new[known]) > self._warm["limit"]
        if cold.any():
            new[cold] = self._walked(self._noise(new[cold].shape), context[cold], self._full)
        return new

    def _guess(self, last: np.ndarray) -> np.ndarray:
        """The last chunks without what was executed; their last action is repeated."""
        moved = np.concatenate([last[:, self._execute :], np.repeat(last[:, -1:], self._execute, axis=1)], axis=1)
        size = self._warm["discrete"]
        return moved if size is None else np.where(self._discrete, np.where(moved >= 0, size, -size), moved).astype(np.float32)

    def _distance(self, guess: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Rms distance [K] of continuous actions that both know."""
        both = max(1, self._horizon - self._execute)
        return np.sqrt(np.square((guess - new)[:, :both, ~self._discrete]).mean((1, 2)))

    def _walked(self, x: np.ndarray, context: np.ndarray, steps: list[list[float]], quiet: bool = False) -> np.ndarray:
        """Go all `steps` from x [K, H, A]; `quiet`: without noise."""
        for level, a, s, of_clean, of_x, of_predicted, of_noise in steps:
            predicted = self._denoise([x, np.full(x.shape[:2], level, np.int64), context])
            step = of_x * x + of_predicted * predicted
            if of_clean:
                step = step + of_clean * np.clip((x - s * predicted) / a, -1, 1)
            x = step if quiet or not of_noise else step + of_noise * self._noise(x.shape)
        return x

    def _noise(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.standard_normal(shape, dtype=np.float32)

    def _executed(self, x: np.ndarray) -> np.ndarray:
        """Actions [..., A] in [-1, 1]."""
        action = self._center + self._half * x
        return np.where(self._discrete, np.where(action >= 0, 1, -1), np.clip(action, -1, 1)).astype(np.float32)
