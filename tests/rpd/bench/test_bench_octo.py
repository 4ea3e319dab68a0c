"""`rpd bench octo`: it loads both layouts and labels."""

from __future__ import annotations

import importlib.util

import pytest
import torch

MISSING = any(importlib.util.find_spec(name) is None for name in ("transformers", "msgpack"))
pytestmark = pytest.mark.skipif(MISSING, reason="needs the extra vla")


def test_measurements(tmp_path, monkeypatch):
    from rpd.bench import octo as octo_bench
    from rpd.teachers.octo import weights
    from rpd.teachers.octo.checkpoint import read_checkpoint

    monkeypatch.setattr(octo_bench, "BATCHES", (1, 2))
    monkeypatch.setattr(octo_bench, "_alone", lambda work, *args: work(*args))
    rows = octo_bench.measure("small", None, 3, "cpu", 1)
    assert [row.what for row in rows] == ["load msgpack", "load converted", "label 1", "label 2"]
    assert [row.labels for row in rows] == [0, 0, 1, 2] and all(row.seconds > 0 and row.peak_mb > 0 for row in rows)
    octo_bench._make("small", tmp_path / "octo")
    checkpoint = read_checkpoint(tmp_path / "octo", "octo")
    assert dict(checkpoint.cameras) == {"image_primary": (64, 64)}
    model = weights.load(checkpoint, tmp_path / "octo")
    assert model.config.head.action_dim == 7 and not torch.equal(*(p.flatten()[:2] for p in list(model.parameters())[:2]))
