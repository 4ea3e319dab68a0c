"""`rpd export`: export a trained policy to a folder that runs on a robot's computer without this package."""

from __future__ import annotations

import torch

from rpd.cli.options.export import ExportOptions
from rpd.policies.export import export_policy


def main(options: ExportOptions) -> int:
    """Export and print a summary; returns the exit code."""
    torch.set_num_threads(1)
    chosen = {"robot": options.robot, "task": options.task, "sampler": options.sampler}
    written = export_policy(options.run, options.out, **chosen)
    out, test, robot = written.folder, written.about["selftest"], written.spec["embodiment"]["name"]
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e3:,.0f} kB, for {robot}")
    print(f"self-test: {test['count']} observations, {test['origin']}: largest difference {written.error:.1e}")
    print(f"on the robot's computer: pip install -r {out / 'requirements.txt'}; python {out / 'policy.py'}")
    return 0
