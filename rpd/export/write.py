"""Export of a policy to a folder, verified against the original."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rpd import export
from rpd.core.files import write_json
from rpd.envs.errors import ConfigError
from rpd.envs.rebuild import config_for
from rpd.envs.specs import EnvSpec
from rpd.export import actors, formats, runtime
from rpd.export.diffusion import diffusion_parts
from rpd.export.examples import environment
from rpd.export.parts import student_parts
from rpd.runs import provenance
from rpd.students.actor_critic import ActorCritic
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.students.io import pretrained
from rpd.students.io.files import file_digest, write_bytes
from rpd.students.io.outputs import staged
from rpd.students.training_range import training_range

REQUIREMENTS = b"numpy>=1.26\nonnxruntime>=1.20\n"
"""Requirements of the robot's computer."""


def write(
    policy: ActorCritic | DiffusionPolicy,
    source: Path,
    own: EnvSpec,
    out: Path,
    robot: str | None = None,
    task: str | None = None,
    sampler: str | None = None,
) -> runtime.Policy:
    """Export a policy to a new folder, which is created only after it has passed its self-test.

    Args:
        policy: policy to export; it is adapted to `robot` and `task`.
        source: path that it was loaded from.
        own: spec of its training environment, in which the observations of the self-test are recorded.
        out: folder to write.
        robot: target robot, if not its own.
        task: target task, if not its own.
        sampler: sampler of a diffusion policy; None: its default.

    Returns:
        The written policy, loaded with its runtime.

    Raises:
        ConfigError: the folder exists, the policy cannot be exported, or the exported graph gives other actions.
        SpecMismatch: the policy does not fit the robot or the task; states both sides.
        OSError: e.g. a full disk; nothing is left behind.
    """
    with staged(out, f"{out} exists already: export into another folder with --out, or delete it first") as folder:
        for name, data in _files(policy, source, own, robot, task, sampler).items():
            write_bytes(folder / name, data)
        digests: dict[str, Any] = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        write_json(folder / runtime.MANIFEST, {"files": digests})
        written = export.load(folder)  # runs the self-test
    written.folder = out
    return written


def _files(
    policy: ActorCritic | DiffusionPolicy,
    source: Path,
    own: EnvSpec,
    robot: str | None,
    task: str | None,
    sampler: str | None,
) -> dict[str, bytes]:
    """Content of an exported folder, see `write`."""
    with environment(task or own.task, config_for(own, task, robot)) as env:
        if robot is None and task is None:
            spec = policy.spec
            if not isinstance(env, ConfigError):
                env.spec.check_policy(spec)
        elif isinstance(env, ConfigError):
            raise env
        else:
            spec = env.spec
            policy.adapt_to(spec)
        if isinstance(policy, DiffusionPolicy):
            parts = diffusion_parts(policy, spec, env, sampler)
        elif sampler is not None:
            raise ConfigError(f"{source} does not draw through a sampler: leave out --sampler {sampler}")
        else:
            parts = student_parts(policy, spec, env)
    info = provenance.environment_info()
    about = {
        "schema": runtime.SCHEMA,
        "format": runtime.FORMAT,
        "kind": type(policy).__name__,
        "networks": {name: {"file": f"{name}.onnx", "inputs": part.inputs} for name, part in parts.networks.items()},
        "frames": parts.spec.frames,
        "chunks": parts.chunks,
        "parameters": sum(p.numel() for part in parts.networks.values() for p in part.module.parameters()),
        "training": training_range(policy, spec),
        "selftest": {"count": len(parts.answers), "origin": parts.origin},
        "made_by": {
            "policy": str(source),
            "identity": pretrained.identity(source),
            **{k: info[k] for k in ("time", "versions", "git")},
        },
        "spec": parts.spec.stacked(1).model_dump(mode="json"),  # the runtime stacks frames itself
    }
    test = {runtime.OBSERVATION + key: rows for key, rows in parts.asked.items()} | {runtime.ACTION: parts.answers}
    if parts.noise is not None:
        test[runtime.NOISE] = parts.noise
    tests = io.BytesIO()
    np.savez_compressed(tests, **test)  # type: ignore[arg-type]
    return {
        **{f"{name}.onnx": formats.serialize(part.module, part.example, part.inputs) for name, part in parts.networks.items()},
        runtime.SPEC: (json.dumps(about, indent=2) + "\n").encode(),
        runtime.SELFTEST: tests.getvalue(),
        "policy.py": Path(runtime.__file__).read_bytes().replace(b"from rpd.export.actors", b"from actors"),
        "actors.py": Path(actors.__file__).read_bytes(),
        "requirements.txt": REQUIREMENTS,
    }
