"""Rebuild the models that ship, from nothing: demonstrations, training, model card.

python scripts/zoo.py tabletop         # hours on a CPU; resumable. Ends with teachers/zoo/tabletop
python scripts/zoo.py tabletop-octo    # half an hour on a core, after the demonstrations
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rpd.stats import wilson

ROOT = Path(__file__).resolve().parent.parent
COLLECT = ("--noise", "0.3", "--noise-turn", "0", "--privileged", "True", "--env.num-envs", "128", "--per-file", "256")
EASY = ("tabletop/Reach", "tabletop/PushCube", "tabletop/PullCube")
DEMOS = (
    # PickCube is much the hardest, and the others shall leave something to learn: most demonstrations are of it.
    ("collect", "tabletop/PickCube", "--teacher", "scripted:rise=0.03", "--episodes", "3072", *COLLECT,
     "--out", "demos/zoo-tabletop-pick"),
    ("collect", *EASY, "--teacher", "scripted", "--episodes", "160", *COLLECT, "--out", "demos/zoo-tabletop-easy"),
)  # fmt: skip
TRAIN = "teacher train demos/zoo-tabletop-pick demos/zoo-tabletop-easy --balance 0.5 --scene-weight 2 --batch-size 32"


def words(*parts: str) -> tuple[str, ...]:
    """A command line, word by word."""
    return tuple(" ".join(parts).split())


class Recipe(NamedTuple):
    """How a model is made, and what its card says of it."""

    commands: tuple[tuple[str, ...], ...]
    """What `rpd` is told, in this order; what it makes is named by the last word."""
    distill: str
    """Divergence that its students learn with."""
    about: str
    """What it is."""
    known: str
    """What it can and cannot do."""


RECIPES = {
    "tabletop": Recipe(
        (*DEMOS, words(TRAIN, "--smoothing 3 --scene-steps 9000 --steps 9000 --eval-episodes 400 --name zoo-tabletop")),
        "rkl",
        """OpenVLA's architecture and file layout at a three-thousandth of its size: one vision transformer, a projector and
a two-layer Llama, which answers an image of 64 x 64 pixels and an instruction with one of 256 tokens per dimension of the
action.""",
        """It knows where a cube is to a centimetre, the width of a pixel. In PickCube it grasps and lifts in most
episodes; what it misses are the last centimetres to a goal in the air, which it tells from one camera.""",
    ),
    "tabletop-octo": Recipe(
        (*DEMOS, words(TRAIN, "--family octo --scene-steps 2000 --steps 2000 --name zoo-tabletop-octo")),
        "rkl",
        """Octo's architecture, in the layout that `rpd convert octo` writes: a convolutional stem, a one-layer T5, a
two-layer transformer, and a head that denoises an action in ten steps, from an image of 64 x 64 pixels and an instruction.""",
        """As a policy it draws one action and executes it, as Octo does, and so it trembles.""",
    ),
}
CARD = """---
license: apache-2.0
library_name: rpd
pipeline_tag: robotics
---

# {name}: a small vision-language-action model

{about}
{parameters:.1f} M parameters, {megabytes:.1f} MB. It is a teacher to distil experts from. It has a vocabulary of its own, so
that the original code cannot prompt it.

    rpd eval teacher:zoo/{name} --task {task}
    rpd train {task} --teacher zoo/{name} --distill {distill}

| task | success | 95 % interval |
|---|---|---|
{rows}

On seeds that no demonstration comes from, with the Panda and the `front` camera.

**Trained on** {episodes:,} episodes of scripted experts ({images:,} images) that tremble and are corrected, {steps:,} gradient
steps on one core. {known}

**Actions**: in `bridge.yaml`. **Not for** anything but this repository's tabletop environments.

**Rebuilt by** `python scripts/zoo.py {name}`, which runs

{commands}
"""


def build(name: str) -> None:
    """Run the recipe and put what comes of it into teachers/zoo/."""
    rpd = str(Path(sys.executable).with_name("rpd"))
    for command in RECIPES[name].commands:
        subprocess.run([rpd, *_continued(command)], cwd=ROOT, check=True)
    run = ROOT / "runs" / RECIPES[name].commands[-1][-1]
    folder = ROOT / "teachers" / "zoo" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "model", folder)
    (folder / "README.md").write_text(card(name, json.loads((run / "result.json").read_text()), folder))


def _continued(command: Sequence[str]) -> Sequence[str]:
    """The command, or where its folder says that it has begun, what continues it."""
    if command[0] == "collect":
        made, mark, verb = ROOT / command[-1], "dataset.json", ["collect"]
    else:
        made, mark, verb = ROOT / "runs" / command[-1], "config.yaml", ["teacher", "train"]
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
