"""Control flow of an exported policy from observations to actions: numpy around networks. Part of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Network = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Maps inputs, in the order of the spec and batch first, to the output."""


LIMIT = 1e6
"""Largest valid magnitude of inputs and outputs; equals `rpd.envs.finite.LIMIT`, which is not available on a robot's computer.
Beyond it, a network would clip a value, including NaN, to a plausible action."""


MOST = {"horizon": 1024, "n_obs": 1024, "steps": 1000}
"""Largest numbers in a spec: larger ones exhaust memory or time."""


class BadObservation(ValueError):
    """An invalid observation. The message names the key and the expected value."""


class BadAnswer(RuntimeError):
    """A network output NaN, Inf, or a magnitude beyond `LIMIT`. The message names it."""


def invalid_entries(values: np.ndarray, names: Sequence[str] = ()) -> str | None:
    """List the entries of `values` [..., D] that are NaN, Inf or beyond `LIMIT`, with their values; None if there are none."""
    if np.vdot(values, values) <= LIMIT**2:  # False for NaN; a fast test for all entries
        return None
    rows = np.reshape(values, (-1, np.shape(values)[-1]))
    bad = ~(np.abs(rows) <= LIMIT)
    if not bad.any():
        return None
    named = [
        f"{names[i] if len(names) == rows.shape[1] else f'[{i}]'} = {rows[bad[:, i], i][0]:g}"
        for i in np.flatnonzero(bad.any(axis=0)).tolist()
    ]
    return ", ".join(named[:8]) + ("…" if len(named) > 8 else "")


DEVIATIONS = 5.0
"""Distance from the mean of the training, in standard deviations, beyond which a state entry is outside of the training."""


def outside_training(state: np.ndarray, names: Sequence[str], training: Mapping[str, Any] | None) -> dict[str, float]:
    """Entries of a state that lie outside of the training, by name.

    Args:
        state: [S] state.
        names: names of its entries.
        training: names, mean and std of the entries with known statistics, see `rpd.students.training_range`; None: none.

    Returns:
        Signed distances from the mean in standard deviations, those beyond `DEVIATIONS`, farthest first.
    """
    if training is None:
        return {}
    statistics = zip(training["names"], training["mean"], training["std"], strict=True)
    place = {name: i for i, name in enumerate(names)}
    far = {name: (float(state[place[name]]) - mean) / std for name, mean, std in statistics if name in place}
    return dict(sorted(((k, v) for k, v in far.items() if not abs(v) <= DEVIATIONS), key=lambda item: -abs(item[1])))


def checked(network: Network, name: str) -> Network:
    """Wrap a network to raise BadAnswer on invalid output."""

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        output = network(inputs)
        if bad := invalid_entries(output):
            raise BadAnswer(f"network '{name}' answered {bad}")
        return output

    return run


class History:
    """The last W observations [N, ...] of N robots; the first of an episode is repeated for the ones before it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._past = self._fresh = np.zeros(0)  # [N, W, ...], and [N] whether an episode starts

    def push(self, new: np.ndarray) -> np.ndarray:
        """Append an observation [N, ...]; returns the last W [N, W, ...], newest last.

        Raises:
            BadObservation: the number of robots has changed.
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

    def reset(self, mask: np.ndarray | None) -> None:
        """Start new episodes where mask [N] is True; None: everywhere."""
        if mask is None or len(mask) != len(self._past):
            self._past = np.zeros(0)
        else:
            self._fresh = self._fresh | mask


class SinglePass:
    """One forward pass of the network per action."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def act(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Actions [N, A]."""
        return self._network(inputs)

    def answer(self, inputs: Sequence[np.ndarray], noise: np.ndarray | None) -> np.ndarray:
        """Actions [N, A], computed row by row, as on a robot."""
        return np.concatenate([self._network([rows[i : i + 1] for rows in inputs]) for i in range(len(inputs[0]))])

    def reset(self, mask: np.ndarray | None) -> None:
        """No state to reset."""

    def seed(self, seed: int) -> None:
        """No randomness."""


def check_int(value: Any, name: str, low: int, high: int) -> int:
    """Validate an integer of a spec.

    Raises:
        ValueError: not an integer from `low` to `high`.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {str(value)[:40]}, and has to be a whole number from {low} to {high}")
    return value


def check_chunks(settings: dict[str, Any], dims: int) -> None:
    """Validate settings of `Denoising`.

    Args:
        settings: ``chunks`` in ``spec.json``.
        dims: number of action dimensions, A.

    Raises:
        KeyError, TypeError, ValueError: invalid settings; the last names the setting.
    """
    horizon = check_int(settings["horizon"], "chunks.horizon", 1, MOST["horizon"])
    check_int(settings["execute"], "chunks.execute", 1, horizon)
    check_int(settings["n_obs"], "chunks.n_obs", 1, MOST["n_obs"])
    check_int(len(settings["full"]), "the number of chunks.full", 1, MOST["steps"])
    check_int(settings["start"], "chunks.start", 0, len(settings["full"]) - 1)
    warm = settings["warm"] or {"steps": [], "limit": 0.0, "discrete": None}
    check_int(len(warm["steps"]), "the number of chunks.warm.steps", 0, MOST["steps"])
    _check_numbers([min(warm["limit"], LIMIT), warm["discrete"] or 0.0], "chunks.warm", (2,))
    for name, steps in (("full", settings["full"]), ("warm.steps", warm["steps"])):
        _check_numbers(steps, f"chunks.{name}", (len(steps), 7) if steps else (0,))
    for name in ("center", "half", "discrete"):
        _check_numbers(settings[name], f"chunks.{name}", (dims,))


def _check_numbers(values: Any, name: str, shape: tuple[int, ...]) -> None:
    array = np.array(values, np.float64)
    if array.shape != shape or not (np.abs(array) <= LIMIT).all():
        raise ValueError(f"{name} has to be {list(shape)} numbers of at most {LIMIT:g}")


class Denoising:
    """Action chunks, sampled by denoising when due, and executed; robot i is row i in every call.

    Args:
        settings: ``chunks`` in ``spec.json``. A chunk has ``horizon`` actions, of which ``execute`` are executed; it depends on
            the last ``n_obs`` observations. ``full`` lists the steps from noise to a chunk: for each step the level and the
            factors (a, s, of_clean, of_x, of_predicted, of_noise) of

                c = clip((x - s p) / a, -1, 1)
                x = of_clean c + of_x x + of_predicted p + of_noise z

            with network prediction p and noise z.

            The self-test starts at step ``start``. ``warm``, if given, lists the steps from the shifted last chunk (RTI, arXiv
            2508.05396); a result whose rms distance from it exceeds ``limit`` is rejected and replaced by full denoising.
            Actions are ``center`` + ``half`` x.
        networks: ``encoder``, from observations to features [N, F]; ``denoiser``, from x [N, H, A], level [N, H] and
            features [N, n_obs, F] to the prediction p [N, H, A].
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
        """Chunks of actions [N, H, A] at the start of an episode, from given x [N, H, A], without noise."""
        assert noise is not None
        context = np.repeat(self._encode(inputs)[:, None], self._history.window, axis=1)
        return self._executed(self._walked(noise, context, self._full[self._start :], quiet=True))

    def reset(self, mask: np.ndarray | None) -> None:
        """Start new episodes where mask [N] is True; None: everywhere."""
        self._history.reset(mask)
        if mask is None or len(mask) != len(self._left):
            self._begin(0)
        else:
            self._left[mask], self._known[mask] = 0, False

    def seed(self, seed: int) -> None:
        """Reseed the noise."""
        self._random = np.random.default_rng(seed)

    def _begin(self, rows: int) -> None:
        """Reset the state, for `rows` robots."""
        self._chunks = np.zeros((rows, self._horizon, len(self._discrete)), np.float32)
        self._left, self._known = np.zeros(rows, dtype=int), np.zeros(rows, dtype=bool)

    def _drawn(self, context: np.ndarray, last: np.ndarray, known: np.ndarray) -> np.ndarray:
        """New chunks [K, H, A]; `known` [K] marks rows of `last` [K, H, A] with a chunk of the current episode."""
        new, cold = np.empty_like(last), np.ones_like(known)
        if self._warm and known.any():
            guess = self._guess(last[known])
            new[known] = self._walked(guess, context[known], self._warm["steps"])
            cold[known] = self._distance(guess, new[known]) > self._warm["limit"]
        if cold.any():
            new[cold] = self._walked(self._noise(new[cold].shape), context[cold], self._full)
        return new

    def _guess(self, last: np.ndarray) -> np.ndarray:
        """Last chunks without the executed actions; the last action is repeated."""
        moved = np.concatenate([last[:, self._execute :], np.repeat(last[:, -1:], self._execute, axis=1)], axis=1)
        size = self._warm["discrete"]
        return moved if size is None else np.where(self._discrete, np.where(moved >= 0, size, -size), moved).astype(np.float32)

    def _distance(self, guess: np.ndarray, new: np.ndarray) -> np.ndarray:
        """Rms distance [K] of continuous actions over the overlap of both chunks."""
        both = max(1, self._horizon - self._execute)
        return np.sqrt(np.square((guess - new)[:, :both, ~self._discrete]).mean((1, 2)))

    def _walked(self, x: np.ndarray, context: np.ndarray, steps: list[list[float]], quiet: bool = False) -> np.ndarray:
        """Apply all `steps` to x [K, H, A]; `quiet`: without noise."""
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
