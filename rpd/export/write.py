"""`rpd export`: a trained policy as one folder that a robot's computer runs without any of this."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from pydantic import BaseModel, ConfigDict

from envs.errors import ConfigError, unknown_name
from rpd import export, machine
from rpd.atomic import write_json
from rpd.evaluation import made_for
from rpd.export import actors, formats, runtime
from rpd.export.diffusion import of_diffusion
from rpd.export.examples import environment
from rpd.export.parts import of_student
from rpd.runs import near, run_of
from students import pretrained
from students.actor_critic import ActorCritic
from students.diffusion.policy import DiffusionPolicy
from students.files import file_digest, sync_folder, write_bytes
from students.locate import resolve_policy

REQUIREMENTS = {"onnx": "numpy>=1.26\nonnxruntime>=1.20\n"}
"""Of the robot's computer; torch reads what the same torch has written, or a newer one."""


class ExportOptions(BaseModel):
    """Write a trained policy for a robot's computer, where numpy and onnxruntime are enough, and test it as it will run."""

    model_config = ConfigDict(extra="forbid")

    run: tyro.conf.Positional[Path]
    """Run, checkpoint or policy folder."""
    format: str = "onnx"
    """onnx, or for computers that have torch: torchscript, pt2."""
    robot: str | None = None
    """Robot that it shall move, of a policy that fits several (a generalist, or one with `reads`); default: its own."""
    task: str | None = None
    """Task that it shall do, of a policy that knows several; default: its own."""
    sampler: str | None = None
    """How a diffusion policy draws its actions: ddpm, ddim:steps=16, euler, rti:levels=3, ...; see docs/diffusion.md."""
    out: Path | None = None
    """Folder to write, which may not exist yet; default: export/<format> in the run."""


def main(options: ExportOptions) -> int:
    """Export and say what was written; returns the exit code."""
    torch.set_num_threads(1)
    if options.format not in formats.FORMATS:
        raise unknown_name("format", options.format, formats.FORMATS)
    formats.check(options.format)
    if not options.run.exists():
        raise unknown_name("policy", str(options.run), near(options.run) or ["<run>", "<checkpoint>", "<policy folder>"])
    policy = pretrained.load(source := resolve_policy(options.run))
    out = options.out or _place(options.run, options.format)
    written = write(policy, source, out, options.format, options.robot, options.task, options.sampler)
    test, robot = written.about["selftest"], written.spec["embodiment"]["name"]
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e3:,.0f} kB, {options.format}, for {robot}")
    print(f"self-test: {test['count']} observations, {test['origin']}: largest difference {written.error:.1e}")
    print(f"on the robot's computer: pip install -r {out / 'requirements.txt'}; python {out / 'policy.py'}")
    return 0


def write(
    policy: ActorCritic | DiffusionPolicy,
    source: Path,
    out: Path,
    format: str,
    robot: str | None = None,
    task: str | None = None,
    sampler: str | None = None,
) -> runtime.Policy:
    """Export a policy into a new folder, which appears when it is whole and has passed its own test.

    Args:
        policy: what is exported; it is made to `fit` where it shall act.
        source: where it is from; its environment is where the observations of the self-test are recorded.
        out: folder to write.
        format: one of `formats.FORMATS`.
        robot: that it shall move, if not its own.
        task: that it shall do, if not its own.
        sampler: how a diffusion policy draws; None: its default.

    Returns:
        What was written, as a robot's computer sees it.

    Raises:
        ConfigError: the folder exists, the policy is not of a kind that can be exported, or it answers otherwise as a graph.
        SpecMismatch: it does not fit the robot or the task; names both sides.
        OSError: e.g. a full disk; nothing is left behind.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: export into another folder with --out, or delete it first")
    own, config = made_for(source)
    with environment(task or own, config.model_copy(update={"robot": robot or config.robot})) as env:
        if robot is None and task is None:
            spec = policy.spec
            if not isinstance(env, ConfigError):
                env.spec.check_policy(spec)
        elif isinstance(env, ConfigError):
            raise env
        else:
            spec = env.spec
            policy.fit(spec)
        if isinstance(policy, DiffusionPolicy):
            parts = of_diffusion(policy, spec, env, sampler)
        elif sampler is not None:
            raise ConfigError(f"{source} does not draw through a sampler: leave out --sampler {sampler}")
        else:
            parts = of_student(policy, spec, env)
    ending, info = formats.FORMATS[format][0], machine.environment_info()
    about = {
        "schema": runtime.SCHEMA,
        "format": format,
        "kind": type(policy).__name__,
        "networks": {name: {"file": name + ending, "inputs": part.inputs} for name, part in parts.networks.items()},
        "frames": parts.spec.frames,
        "chunks": parts.chunks,
        "parameters": sum(p.numel() for part in parts.networks.values() for p in part.module.parameters()),
        "selftest": {"count": len(parts.answers), "origin": parts.origin},
        "made_by": {"policy": str(source), **{k: info[k] for k in ("time", "versions", "git")}},
        "spec": parts.spec.stacked(1).model_dump(mode="json"),  # the runtime remembers the frames before
    }
    test = {runtime.OBSERVATION + key: rows for key, rows in parts.asked.items()} | {runtime.ACTION: parts.answers}
    if parts.noise is not None:
        test[runtime.NOISE] = parts.noise
    tests = io.BytesIO()
    np.savez_compressed(tests, **test)  # type: ignore[arg-type]
    files = {
        **{
            name + ending: formats.serialize(part.module, part.example, part.inputs, format)
            for name, part in parts.networks.items()
        },
        runtime.SPEC: (json.dumps(about, indent=2) + "\n").encode(),
        runtime.SELFTEST: tests.getvalue(),
        "policy.py": Path(runtime.__file__).read_bytes().replace(b"from rpd.export.actors", b"from actors"),
        "actors.py": Path(actors.__file__).read_bytes(),
        "requirements.txt": REQUIREMENTS.get(format, f"numpy>=1.26\ntorch>={torch.__version__.split('+')[0]}\n").encode(),
    }
    return _write(out, files)


def _write(out: Path, files: dict[str, bytes]) -> runtime.Policy:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        for name, data in files.items():
            write_bytes(temporary / name, data)
        digests: dict[str, Any] = {name: file_digest(temporary / name) for name in files}
        write_json(temporary / runtime.MANIFEST, {"files": digests})
        written = export.load(temporary)  # replays the self-test
        os.rename(temporary, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    written.folder = out
    return written


def _place(path: Path, format: str) -> Path:
    """``export/<format>`` in the run of a path."""
    run = run_of(path)
    if run is None:
        raise ConfigError(f"{path} is in no run: say with --out which folder to write")
    return run / "export" / format
