"""Rebuild the shipped models from scratch: demonstrations, training, model card.

python scripts/zoo.py tabletop         # hours on a CPU; resumable. Ends with teachers/zoo/tabletop
python scripts/zoo.py tabletop-octo    # half an hour on a core, after the demonstrations
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rpd.core import children
from rpd.core.statistics import wilson

ROOT = Path(__file__).resolve().parent.parent
COLLECT = ("--noise", "0.3", "--noise-turn", "0", "--privileged", "True", "--env.num-envs", "128", "--per-file", "256")
EASY = ("tabletop/Reach", "tabletop/PushCube", "tabletop/PullCube")
DEMOS = (
    # PickCube is by far the hardest task, so most demonstrations are of it.
    ("data", "collect", "tabletop/PickCube", "--policy", "scripted:early_lift=0.03", "--episodes", "3072", *COLLECT,
     "--out", "demos/zoo-tabletop-pick"),
    ("data", "collect", *EASY, "--policy", "scripted", "--episodes", "160", *COLLECT, "--out", "demos/zoo-tabletop-easy"),
)  # fmt: skip
TRAIN = "teacher finetune demos/zoo-tabletop-pick demos/zoo-tabletop-easy --balance 0.5 --scene-weight 2 --batch-size 32"


def words(*parts: str) -> tuple[str, ...]:
    """A command line, word by word."""
    return tuple(" ".join(parts).split())


class Recipe(NamedTuple):
    """Commands that train a model, and texts of its card."""

    commands: tuple[tuple[str, ...], ...]
    """Commands of `rpd`, in order; the last word of each names its output."""
    distill: str
    """Divergence for distilling students."""
    about: str
    """Description of the model."""
    known: str
    """Abilities and limits."""


RECIPES = {
    "tabletop": Recipe(
        (*DEMOS, words(TRAIN, "--smoothing 3 --scene-steps 9000 --train-steps 9000 --eval-episodes 400 --name zoo-tabletop")),
        "rkl",
        """OpenVLA's architecture and file layout at a three-thousandth of its size: one vision transformer, a projector and
a two-layer Llama, which maps an image of 64 x 64 pixels and an instruction to one of 256 tokens per action dimension.""",
        """It localizes a cube to one centimeter, the width of a pixel. In PickCube it is slow: with twice the time it
solves half of the episodes (52 of 100, `rpd eval --max-episode-steps 100`), not a third.""",
    ),
    "tabletop-octo": Recipe(
        (*DEMOS, words(TRAIN, "--family octo --scene-steps 2000 --train-steps 2000 --name zoo-tabletop-octo")),
        "rkl",
        """Octo's architecture, in the layout of `rpd teacher convert octo`: a convolutional stem, a one-layer T5, a two-layer
transformer, and a head that denoises an action in ten steps. Input: an image of 64 x 64 pixels and an instruction.""",
        """As a policy it draws one action and executes it, as Octo does, so its actions are noisy.""",
    ),
}
CARD = """---
license: apache-2.0
library_name: rpd
pipeline_tag: robotics
---

# {name}: a small vision-language-action model

{about}
{parameters:.1f} M parameters, {megabytes:.1f} MB. It is a teacher for distilling experts. Its vocabulary
differs from the original's, so the original code cannot prompt it.

    rpd eval zoo/{name} --task {task}
    rpd train {task} --teacher zoo/{name} --distill {distill}

| task | success | 95 % interval |
|---|---|---|
{rows}

On seeds without demonstrations, with the Panda and the `front` camera.

**Trained on** {episodes:,} episodes of scripted experts ({images:,} images) with action noise and corrected labels, {steps:,}
gradient steps on one core. {known}

**Actions**: see `action_mapping.yaml`. **Use only** in this repository's tabletop environments.

**Rebuild** with `python scripts/zoo.py {name}`, which runs

{commands}
"""


def build(name: str) -> None:
    """Run the recipe and copy the model to teachers/zoo/."""
    for command in RECIPES[name].commands:
        if code := children.start(_continued(command), cwd=ROOT).wait():
            raise SystemExit(code)
    run = ROOT / "runs" / RECIPES[name].commands[-1][-1]
    folder = ROOT / "teachers" / "zoo" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "model", folder)
    (folder / "README.md").write_text(card(name, json.loads((run / "result.json").read_text()), folder))


def _continued(command: Sequence[str]) -> Sequence[str]:
    """The command, or the one that resumes it if its folder exists."""
    if command[0] == "data":
        made, mark, verb = ROOT / command[-1], "dataset.json", ["data", "collect"]
    else:
        made, mark, verb = ROOT / "runs" / command[-1], "config.yaml", ["teacher", "finetune"]
    return [*verb, "--resume", str(made)] if (made / mark).exists() else command


def card(name: str, result: dict[str, Any], folder: Path) -> str:
    """The model card, from the run's result."""
    recipe, rows = RECIPES[name], []
    for played in result["played"]:
        low, high = wilson(played["successes"], played["n"])
        rows.append(f"| {played['task']} | {played['successes']}/{played['n']} | {100 * low:.0f}–{100 * high:.0f} % |")
    return CARD.format(
        name=name, task=EASY[1], distill=recipe.distill, about=recipe.about, known=recipe.known,
        rows="\n".join(rows), episodes=result["episodes"], images=result["rows"],
        steps=result["steps"], parameters=result["parameters"] / 1e6,
        megabytes=sum(f.stat().st_size for f in folder.iterdir()) / 1e6,
        commands="\n".join("    rpd " + " ".join(command) for command in recipe.commands),
    )  # fmt: skip


def main() -> None:
    """Parse and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    build(parser.parse_args().name)


if __name__ == "__main__":
    main()
