"""The tiny checkpoint in the official layout, and what the original code made of five images and instructions.

`golden/` was recorded with torch 2.2.0, transformers 4.40.1 and timm 0.9.10; its versions and prompts are in golden.json.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("transformers") is None else []

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Arrays by name, and `instructions`, `tokens` of the five samples."""
    arrays = dict(np.load(GOLDEN / "golden.npz"))
    samples = json.loads((GOLDEN / "golden.json").read_text())["samples"]
    return SimpleNamespace(
        arrays=arrays,
        of=lambda i, name: arrays[f"s{i}/{name}"],
        image=lambda i: torch.from_numpy(arrays[f"s{i}/image"])[None],
        instructions=[s["instruction"] for s in samples],
        prompts=[s["prompt"] for s in samples],
        samples=range(len(samples)),
    )


@pytest.fixture(scope="session")
def folder():
    return GOLDEN / "checkpoint"


@pytest.fixture(scope="session")
def checkpoint(folder):
    from rpd.teachers.openvla.checkpoint import read_checkpoint

    return read_checkpoint(folder, "tiny")


@pytest.fixture(scope="session")
def model(checkpoint, folder):
    from rpd.teachers.openvla import weights

    torch.set_num_threads(1)
    return weights.load(checkpoint, folder)


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the checkpoint, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "vla"))


@pytest.fixture
def edit(broken):
    """Change fields of a JSON file of the copy: edit(name, field=value, ...); None removes the field."""

    def change(name, **fields):
        values = json.loads((broken / name).read_text())
        values = {k: v for k, v in (values | fields).items() if v is not None}
        (broken / name).write_text(json.dumps(values))
        return broken

    return change
