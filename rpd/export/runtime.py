"""Runtime of an exported policy on a robot's computer. Needs Python 3.10 or newer, numpy, and onnxruntime.

`rpd export` copies this file into the exported folder as ``policy.py``, together with ``actors.py``, so that the folder is
self-contained:

    python policy.py                     # check every file, run the self-test, measure the latency of an action

    from policy import Policy
    policy = Policy.load("folder")       # runs the same checks
    policy.reset()                       # at the start of an episode
    action = policy.act({"state": state, "image.front": image})  # [A] in [-1, 1]
    policy.outside_training({"state": state})  # entries far from the training, e.g. {"q.joint2": 7.5}

`Policy.spec` describes observations and actions. Networks are stored as ONNX only: its graphs compute and have no side effects,
whereas torch's formats contain pickles (pt2) or programs that may write files (TorchScript).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpd.export.actors import (
    BadAnswer,
    BadObservation,
    Denoising,
    History,
    Network,
    SinglePass,
    check_chunks,
    check_int,
    checked,
    invalid_entries,
    outside_training,
)

SCHEMA, FORMAT = 1, "onnx"
PACKAGES = ("onnxruntime", "numpy")
SPEC, SELFTEST, MANIFEST = "spec.json", "selftest.npz", "manifest.json"
ACTION, OBSERVATION, NOISE = "action", "obs.", "noise"
"""In the self-test: actions of the trained policy, prefix of observations, and initial noise of chunks."""
MOST_FRAMES, MOST_BYTES = 64, 2**31
"""Limits of the image history and of the unpacked self-test: a small file can unpack to any size."""
TOLERANCE = 1e-5
"""Largest difference of an action in [-1, 1] from the trained policy's."""


class BadExport(Exception):
    """An unusable folder. The message is one line with the file and its defect."""


class Policy:
    """An exported policy.

    Attributes:
        folder: folder that it was loaded from.
        spec: `rpd.envs.specs.EnvSpec` that the policy was trained on, as JSON values, with only the state entries that it reads
            (``observations``, ``state_names``, ``action`` with names, units and scale of +1, ``control_hz``,
            ``embodiment``...).
        about: the rest of ``spec.json``: ``format``, ``kind``, ``networks``, ``frames``, ``chunks``, ``selftest``...
        error: largest difference from the trained policy in the self-test.
    """

    def __init__(self, folder: Path, about: dict[str, Any], networks: Mapping[str, Network]) -> None:
        """Assemble verified parts; use `load`."""
        self.folder = folder
        self.about = {key: value for key, value in about.items() if key != "spec"}
        self.spec: dict[str, Any] = about["spec"]
        self.error = float("nan")
        first = "encoder" if "encoder" in networks else "policy"
        self._inputs: list[str] = about["networks"][first]["inputs"]
        chunks = about.get("chunks")
        self._actor = Denoising(chunks, networks) if chunks else SinglePass(networks["policy"])
        self._frames = {key: History(about["frames"]) for key in self._inputs if key.startswith("image.")}

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1) -> Policy:
        """Load a policy: verify every file and run the self-test.

        Args:
            folder: folder written by `rpd export`.
            threads: CPU threads per network; small networks are fastest with one.

        Raises:
            BadExport: a file is missing, altered or of another version; a package is missing; or the self-test fails.
        """
        folder = Path(folder)
        files = _verified(folder)
        about = _json(files[SPEC], folder / SPEC)
        if about.get("schema") != SCHEMA:
            raise BadExport(f"{folder / SPEC}: schema {about.get('schema')!r}, but this runtime reads schema {SCHEMA}")
        if about.get("format") != FORMAT:
            raise BadExport(f"{folder / SPEC}: format {about.get('format')!r} is not read, {FORMAT} alone: export it again")
        try:
            _check_about(about)
            nets = about["networks"].items()
            networks = {name: checked(_network(files[net["file"]], threads, folder / net["file"]), name) for name, net in nets}
            policy = cls(folder, about, networks)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            detail = str(error) if type(error) is ValueError else repr(error)
            raise BadExport(f"{folder / SPEC}: damaged: {detail}") from None
        try:
            policy.error = policy._replay(files[SELFTEST])
        except (KeyError, ValueError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200]
            raise BadExport(f"{folder / SELFTEST}: damaged, or made for another policy: {reason}") from None
        return policy

    def reset(self, mask: np.ndarray | None = None) -> None:
        """Reset the state of an episode; call it at the start of each.

        Args:
            mask: [N] bool, robots that start an episode, for `act_batch`; None: all.
        """
        for memory in (*self._frames.values(), self._actor):
            memory.reset(mask)

    def seed(self, seed: int) -> None:
        """Seed the randomness of the policy."""
        self._actor.seed(seed)

    def act(self, obs: Mapping[str, np.ndarray], instruction: str | None = None) -> np.ndarray:
        """Compute the action of one robot: [A] float32 in [-1, 1].

        Args:
            obs: an array per key of ``spec["observations"]``, without batch dimension. Further keys are ignored.
            instruction: language instruction, for policies that use one.

        Raises:
            BadObservation: a key is missing, has another shape or type, or an entry is NaN, Inf, or implausibly large.
            BadAnswer: the network output such a number.
        """
        return self.act_batch({key: np.asarray(obs[key])[None] for key in self._inputs if key in obs}, [instruction])[0]

    def act_batch(self, obs: Mapping[str, np.ndarray], instructions: Sequence[str | None] | None = None) -> np.ndarray:
        """Compute the actions of N robots: [N, A] float32 in [-1, 1]; arguments as for `act`, batch first."""
        given = [self._input(obs, key) for key in self._inputs]  # validate all inputs before any state changes
        return self._actor.act([self._seen(key, value) for key, value in zip(self._inputs, given, strict=True)])

    def outside_training(self, obs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """State entries of one robot that lie outside of the training, by name; the actions for such states are not reliable.

        Args:
            obs: as for `act`.

        Returns:
            Signed distances from the mean of the training in standard deviations, farthest first, of the entries beyond 5.
            Empty: none, or the statistics are not known (entries of order one, such as a touch; exports of earlier versions).

        Raises:
            BadObservation: see `act`.
        """
        state = self._input({"state": np.asarray(obs["state"])[None]} if "state" in obs else obs, "state")[0]
        return outside_training(state, self.spec["state_names"], self.about.get("training"))

    def examples(self) -> dict[str, np.ndarray]:
        """Observations of the self-test [100, ...] by key, as arguments of `act_batch`."""
        asked, _ = read_selftest((self.folder / SELFTEST).read_bytes())
        return {key: asked[key][..., -self.spec["observations"][key]["shape"][-1] :] for key in self._inputs}

    def _seen(self, key: str, value: np.ndarray) -> np.ndarray:
        """Input of the network: stacks the frames of an image along channels."""
        if key not in self._frames:
            return value
        frames = np.moveaxis(self._frames[key].push(value), 1, -2)  # [N, H, W, K, 3]
        return frames.reshape(*frames.shape[:-2], -1)

    def _input(self, obs: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        """Validate and convert one observation."""
        want = self.spec["observations"][key]
        if key not in obs:
            raise BadObservation(f"the observation lacks '{key}'; it has {', '.join(obs) or 'nothing'}")
        value = np.asarray(obs[key])
        if list(value.shape[1:]) != want["shape"]:
            raise BadObservation(f"observation '{key}' has shape {list(value.shape[1:])}, and has to have {want['shape']}")
        if want["dtype"] == "uint8" and value.dtype != np.uint8:  # an image in [0, 1] would become black
            raise BadObservation(f"observation '{key}' is {value.dtype}, and has to be uint8, from 0 to 255")
        if value.dtype.kind not in "fiub":
            raise BadObservation(f"observation '{key}' is {value.dtype}, and has to be {want['dtype']}")
        if value.dtype.kind == "f" and (bad := invalid_entries(value, self.spec["state_names"] if key == "state" else ())):
            raise BadObservation(f"observation '{key}' is no number that can be measured: {bad}")
        return np.ascontiguousarray(value, dtype=want["dtype"])

    def _replay(self, data: bytes) -> float:
        """Run the self-test; returns the largest difference of the actions."""
        asked, answers = read_selftest(data)
        try:
            given = self._actor.answer([asked[key] for key in self._inputs], asked.get(NOISE))
        except BadAnswer as fault:
            raise BadExport(f"{self.folder}: self-test failed: {fault}: export it again, from a policy that is sound") from None
        error = float(np.abs(given - answers).max())
        if not error <= TOLERANCE:  # also NaN
            raise BadExport(
                f"{self.folder}: self-test failed: an action differs by {error:.2g} from the trained policy's, and may by "
                f"{TOLERANCE:g}: export it again, or use another version of {' or '.join(PACKAGES)}"
            )
        return error


def read_selftest(data: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return observations [100, ...] by key, and the trained policy's actions [100, A] or [100, H, A]."""
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        for part in parts.infolist():
            _check_part(parts, part)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        asked = {key.removeprefix(OBSERVATION): arrays[key] for key in arrays.files if key != ACTION}
        return asked, arrays[ACTION]


def _check_part(parts: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    """Raise if an array would unpack to more than its stored size or the limit.

    Raises:
        ValueError: names the array.
    """
    with parts.open(part) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    size = math.prod(shape) * dtype.itemsize
    if not size <= min(part.file_size, MOST_BYTES):
        raise ValueError(f"{part.filename} has shape {list(shape)}, more than there is or than {MOST_BYTES:,} bytes")


def _check_about(about: dict[str, Any]) -> None:
    """Raise if numbers of a spec would exhaust memory or time.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the spec is damaged.
    """
    check_int(about["frames"], "frames", 1, MOST_FRAMES)
    for key, entry in about["spec"]["observations"].items():
        for side in entry["shape"]:
            check_int(side, f"a side of observation '{key}'", 0, 2**16)
    if training := about.get("training"):
        even = len(training["names"]) == len(training["mean"]) == len(training["std"])
        if not even or not all(0 < std < math.inf for std in training["std"]) or not all(map(math.isfinite, training["mean"])):
            raise ValueError("training: a name, a mean and a positive std per entry are needed")
    if about.get("chunks"):
        check_chunks(about["chunks"], len(about["spec"]["action"]["names"]))


def latency(policy: Policy, calls: int = 1000) -> np.ndarray:
    """Duration of single calls of `Policy.act` on the self-test's observations, s, [calls]."""
    asked, seconds = policy.examples(), np.empty(calls)
    for i in range(calls):
        obs = {key: rows[i % len(rows)] for key, rows in asked.items()}
        began = time.perf_counter()
        policy.act(obs)
        seconds[i] = time.perf_counter() - began
    policy.reset()
    return seconds


def described(view: Mapping[str, Any]) -> str:
    """Describe a camera of the spec, see `rpd.envs.specs.Viewpoint`."""
    x, y, z = view["position"]
    forward = " ".join(f"{row[2]:+.2f}" for row in view["rotation"])
    origin = "tool" if view["mounted"] else "base"
    return f"{x:.3f} {y:.3f} {z:.3f} m from the {origin}, looking along {forward}, {math.degrees(view['fov']):.0f}° high"


def _verified(folder: Path) -> dict[str, bytes]:
    """Content of every file in the manifest, verified by SHA-256."""
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


def _network(data: bytes, threads: int, path: Path) -> Network:
    try:
        import onnxruntime
    except ImportError:
        install = f"pip install -r {path.parent / 'requirements.txt'}"
        raise BadExport(f"{path}: needs {PACKAGES[0]}: {install}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are reported below, in one line
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise BadExport(
            f"{path}: not an ONNX network that onnxruntime can read: {' '.join(str(error).split())[:200]}"
        ) from None
    names = [i.name for i in session.get_inputs()]

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        return session.run(None, dict(zip(names, inputs, strict=True)))[0]

    return run


def main() -> int:
    """Check a folder and print a summary; returns the exit code."""
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
        if key in spec.get("viewpoints", {}):
            print(f"         {described(spec['viewpoints'][key])}")
    print(f"  out  action: float32 [{len(spec['action']['names'])}] in [-1, 1]: {' '.join(spec['action']['names'])}")
    print(f"self-test: {policy.about['selftest']['count']} observations, largest difference {policy.error:.1e}")
    print(f"one action: {p50:.3f} ms (median), {p99:.3f} ms (99 %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
