"""An exported policy, on a robot's computer: needs Python 3.10 or newer, numpy, and onnxruntime (or torch, see below).

`rpd export` copies this file into the folder that it writes, as ``policy.py``, with ``actors.py`` beside it, so that the folder
works on its own:

    python policy.py                     # check every file, replay the self-test, say how long an action takes

    from policy import Policy
    policy = Policy.load("folder")       # does the same checks
    policy.reset()                       # at the start of an episode
    action = policy.act({"state": state, "image.front": image})  # [A] in [-1, 1]

What goes in and what comes out is in `Policy.spec`. torch is imported only for the formats torchscript and pt2.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpd.export.actors import BadObservation, Denoising, Direct, History, Network

SCHEMA = 1
SPEC, SELFTEST, MANIFEST = "spec.json", "selftest.npz", "manifest.json"
ACTION, OBSERVATION, NOISE = "action", "obs.", "noise"
"""In the self-test: the trained policy's answers, the prefix of what was asked, and from which noise chunks were drawn."""
TOLERANCE = 1e-5
"""By how much an action in [-1, 1] may differ from the trained policy's."""


class BadExport(Exception):
    """A folder that cannot be used. The message is one line: which file, and what is wrong with it."""


class Policy:
    """A policy that was exported.

    Attributes:
        folder: where it was loaded from.
        spec: what a policy must know about a robot, as JSON values: `envs.specs.EnvSpec` of what the policy was trained on,
            with those entries of the state alone that it reads (``observations``, ``state_names``, ``action`` with names,
            units and scale of +1, ``control_hz``, ``embodiment``...).
        about: the rest of ``spec.json``: ``format``, ``kind``, ``networks``, ``frames``, ``chunks``, ``selftest``...
        error: largest difference from the trained policy in the self-test.
    """

    def __init__(self, folder: Path, about: dict[str, Any], networks: Mapping[str, Network]) -> None:
        """Of parts that were checked: use `load`."""
        self.folder = folder
        self.about = {key: value for key, value in about.items() if key != "spec"}
        self.spec: dict[str, Any] = about["spec"]
        self.error = float("nan")
        first = "encoder" if "encoder" in networks else "policy"
        self._inputs: list[str] = about["networks"][first]["inputs"]
        chunks = about.get("chunks")
        self._actor = Denoising(chunks, networks) if chunks else Direct(networks["policy"])
        self._frames = {key: History(about["frames"]) for key in self._inputs if key.startswith("image.")}

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1) -> Policy:
        """Load a policy, after verifying every file, and replay its self-test.

        Args:
            folder: that `rpd export` wrote.
            threads: of the CPU that a network may use; small networks are fastest on one.

        Raises:
            BadExport: a file is missing, altered or of another version; a package is missing; or the policy answers
                otherwise here than where it was trained.
        """
        folder = Path(folder)
        files = _verified(folder)
        about = _json(files[SPEC], folder / SPEC)
        if about.get("schema") != SCHEMA:
            raise BadExport(f"{folder / SPEC}: schema {about.get('schema')!r}, but this runtime reads schema {SCHEMA}")
        if about.get("format") not in LOADERS:
            raise BadExport(f"{folder / SPEC}: unknown format {about.get('format')!r}: it has to be {', '.join(LOADERS)}")
        load = LOADERS[about["format"]]
        networks = {name: load(files[net["file"]], threads, folder / net["file"]) for name, net in about["networks"].items()}
        policy = cls(folder, about, networks)
        policy.error = policy._replay(files[SELFTEST])
        return policy

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Forget what belongs to the episode: call it at the start of each.

        Args:
            mask: [N] bool, which of the robots begin anew, for `act_batch`; None: all.
        """
        for memory in (*self._frames.values(), self._actor):
            memory.forget(mask)

    def seed(self, seed: int) -> None:
        """Make what is random about the policy reproducible."""
        self._actor.seed(seed)

    def act(self, obs: Mapping[str, np.ndarray], instruction: str | None = None) -> np.ndarray:
        """Choose the action of one robot: [A] float32 in [-1, 1].

        Args:
            obs: an array per key of ``spec["observations"]``, without a batch. Further keys are ignored.
            instruction: what to do, in words, for a policy that reads some.

        Raises:
            BadObservation: a key is missing, or has another shape or type.
        """
        return self.act_batch({key: np.asarray(obs[key])[None] for key in self._inputs if key in obs}, [instruction])[0]

    def act_batch(self, obs: Mapping[str, np.ndarray], instructions: Sequence[str | None] | None = None) -> np.ndarray:
        """Choose the actions of N robots: [N, A] float32 in [-1, 1]; arguments as of `act`, batch first."""
        given = [self._input(obs, key) for key in self._inputs]  # all of them, before anything is remembered
        return self._actor.act([self._seen(key, value) for key, value in zip(self._inputs, given, strict=True)])

    def examples(self) -> dict[str, np.ndarray]:
        """What the self-test asks [100, ...], by key, as `act_batch` takes it."""
        asked, _ = read_selftest((self.folder / SELFTEST).read_bytes())
        return {key: asked[key][..., -self.spec["observations"][key]["shape"][-1] :] for key in self._inputs}

    def _seen(self, key: str, value: np.ndarray) -> np.ndarray:
        """An observation as the network sees it: an image behind those before it, in the channels."""
        if key not in self._frames:
            return value
        frames = np.moveaxis(self._frames[key].push(value), 1, -2)  # [N, H, W, K, 3]
        return frames.reshape(*frames.shape[:-2], -1)

    def _input(self, obs: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        """One observation, as the network takes it."""
        want = self.spec["observations"][key]
        if key not in obs:
            raise BadObservation(f"the observation lacks '{key}'; it has {', '.join(obs) or 'nothing'}")
        value = np.asarray(obs[key])
        if list(value.shape[1:]) != want["shape"]:
            raise BadObservation(f"observation '{key}' has shape {list(value.shape[1:])}, and has to have {want['shape']}")
        if want["dtype"] == "uint8" and value.dtype != np.uint8:  # an image in [0, 1] would be taken for a black one
            raise BadObservation(f"observation '{key}' is {value.dtype}, and has to be uint8, from 0 to 255")
        if value.dtype.kind not in "fiub":
            raise BadObservation(f"observation '{key}' is {value.dtype}, and has to be {want['dtype']}")
        return np.ascontiguousarray(value, dtype=want["dtype"])

    def _replay(self, data: bytes) -> float:
        """Ask what the trained policy was asked; returns the largest difference between the answers."""
        asked, answers = read_selftest(data)
        given = self._actor.answer([asked[key] for key in self._inputs], asked.get(NOISE))
        error = float(np.abs(given - answers).max())
        if not error <= TOLERANCE:  # NaN, too
            raise BadExport(
                f"{self.folder}: self-test failed: an action differs by {error:.2g} from the trained policy's, and may by "
                f"{TOLERANCE:g}: export it again, or use another version of {' or '.join(PACKAGES[self.about['format']])}"
            )
        return error


def read_selftest(data: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return what the network was asked [100, ...] by key, and the trained policy's answers [100, A] or [100, H, A]."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        asked = {key.removeprefix(OBSERVATION): arrays[key] for key in arrays.files if key != ACTION}
        return asked, arrays[ACTION]


def latency(policy: Policy, calls: int = 1000) -> np.ndarray:
    """Seconds of each of some calls of `Policy.act`, on what was asked in the self-test."""
    asked, seconds = policy.examples(), np.empty(calls)
    for i in range(calls):
        obs = {key: rows[i % len(rows)] for key, rows in asked.items()}
        began = time.perf_counter()
        policy.act(obs)
        seconds[i] = time.perf_counter() - began
    policy.reset()
    return seconds


def _verified(folder: Path) -> dict[str, bytes]:
    """The content of every file that the manifest lists, each as it was written."""
    path = folder / MANIFEST
    listed = _json(_read(path), path).get("files")
    if not isinstance(listed, dict) or not {SPEC, SELFTEST} <= listed.keys():
        raise BadExport(f"{path}: truncated or altered: not a manifest")
    files = {}
    for name, digest in listed.items():
        if Path(name).name != name:
            raise BadExport(f"{path}: truncated or altered: '{name}' is no file of this folder")
        files[name] = _read(folder / name)
        if digest != {"size": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}:
            raise BadExport(f"{folder / name}: altered: it is not the file that was exported (its SHA-256 differs)")
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadExport(f"{path}: cannot be read ({error.strerror}): expected a folder that `rpd export` wrote") from None


def _json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:  # not UTF-8, not JSON
        value = None
    if not isinstance(value, dict):
        raise BadExport(f"{path}: truncated or altered: not a JSON object")
    return value


def _onnx(data: bytes, threads: int, path: Path) -> Network:
    try:
        import onnxruntime
    except ImportError:
        raise _missing(path, "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        return session.run(None, dict(zip(names, inputs, strict=True)))[0]

    return run


def _torchscript(data: bytes, threads: int, path: Path) -> Network:
    return _torch(lambda torch: torch.jit.load(io.BytesIO(data)), threads, path, "torchscript")


def _pt2(data: bytes, threads: int, path: Path) -> Network:
    return _torch(lambda torch: torch.export.load(io.BytesIO(data)).module(), threads, path, "pt2")


def _torch(load: Callable[[Any], Any], threads: int, path: Path, kind: str) -> Network:
    try:
        import torch
    except ImportError:
        raise _missing(path, kind) from None
    torch.set_num_threads(threads)
    module = load(torch)

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()

    return run


def _missing(path: Path, kind: str) -> BadExport:
    return BadExport(f"{path}: needs {PACKAGES[kind][0]}: pip install -r {path.parent / 'requirements.txt'}")


LOADERS: dict[str, Callable[[bytes, int, Path], Network]] = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}
"""What reads a network, by format."""
PACKAGES = {"onnx": ("onnxruntime", "numpy"), "torchscript": ("torch", "numpy"), "pt2": ("torch", "numpy")}
"""What each format needs."""


def main() -> int:
    """Check a folder and print what it is; returns the exit code."""
    parser = argparse.ArgumentParser(description="Check an exported policy: every file, its self-test, and how fast it is.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="default: where this file is")
    options = parser.parse_args()
    try:
        policy = Policy.load(options.folder)
    except BadExport as error:
        print(error, file=sys.stderr)
        return 2
    spec, milliseconds = policy.spec, 1000 * latency(policy)
    p50, p99 = np.percentile(milliseconds, (50, 99))
    robot, size = spec["embodiment"]["name"], policy.about["parameters"]
    print(f"{spec['task']} on {robot} at {spec['control_hz']:g} Hz: {size:,} parameters")
    for key in policy._inputs:
        print(f"  in   {key}: {spec['observations'][key]['dtype']} {spec['observations'][key]['shape']}")
    print(f"  out  action: float32 [{len(spec['action']['names'])}] in [-1, 1]: {' '.join(spec['action']['names'])}")
    print(f"self-test: {policy.about['selftest']['count']} observations, largest difference {policy.error:.1e}")
    print(f"one action: {p50:.3f} ms (median), {p99:.3f} ms (99 %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
