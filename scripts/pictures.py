"""The README's moving pictures.

python scripts/pictures.py robots                     # docs/robots.webp: four robots, each at a task, with its expert
python scripts/pictures.py navigate                   # docs/navigate.webp: mobile bases, with the planner
python scripts/pictures.py demo runs/demo-20260101-0  # docs/demo.webp: teacher and student of a `make demo`
python scripts/pictures.py generalist runs/compass-navigate/generalist  # docs/generalist.webp: one policy on all of its robots
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v2 as imageio
import torch
from PIL import Image, ImageDraw, ImageFont

from rpd.envs import registry as envs
from rpd.envs.config import EnvConfig
from rpd.teachers import registry as teachers

DOCS = Path(__file__).resolve().parent.parent / "docs"
CASTS = {
    "robots": (
        ("panda", "tabletop/StackCube"),
        ("xarm6", "tabletop/PickCube"),
        ("ur5e", "tabletop/PlaceInBin"),
        ("so101", "tabletop/PushCube"),
    ),
    "navigate": (
        ("wheeled", "navigate/Rooms"),
        ("omni", "navigate/Rooms"),
        ("legged", "navigate/Rooms"),
        ("wheeled", "navigate/Open"),
    ),
}
FILMED = {"demo": ("eval/*/side_by_side.mp4", 2), "generalist": ("grid.mp4", 4)}
"""Paths of the videos in runs, and the frame interval of the picture."""
SIZE, SHARPNESS = 208, 2
"""Size of a tile, pixels, and its supersampling factor."""
WIDTH = 832
"""Width of the pictures, pixels."""
HOLD = 20
"""Number of frames for which the last one is repeated."""


def robots(cast: tuple[tuple[str, str], ...]) -> list[Image.Image]:
    """One tile per robot; an episode that is over keeps its last picture."""
    films = [_film(robot, task, 10 * i) for i, (robot, task) in enumerate(cast)]
    length = max(map(len, films)) + HOLD
    pages = []
    for t in range(length):
        page = Image.new("RGB", (SIZE * len(films), SIZE))
        for i, film in enumerate(films):
            page.paste(film[min(t, len(film) - 1)], (i * SIZE, 0))
        pages.append(page)
    return pages


def _film(robot: str, task: str, first: int) -> list[Image.Image]:
    """The expert's first solved episode from the seed `first` on."""
    env = envs.make(task, EnvConfig(robot=robot, num_envs=1), num_threads=1)
    teacher = teachers.make("scripted", env.spec)
    for seed in range(first, first + 10):
        obs, film = env.reset(seed), []
        for _ in range(env.spec.max_episode_steps):
            film.append(_tile(env.render(size=SIZE * SHARPNESS)[0], f"{robot} · {task.split('/')[1]}"))
            step = env.step(teacher.act(obs, env.instructions))
            obs = step.obs
            if step.episode is not None:
                if step.episode.success_once.item():
                    return film
                break
    raise SystemExit(f"{robot} did not solve {task}")


def _tile(frame: torch.Tensor, caption: str) -> Image.Image:
    image = Image.fromarray(frame.numpy()).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    draw.text((8, SIZE - 22), caption, font=ImageFont.load_default(13), fill=(30, 34, 40))
    return image


def filmed(run: Path, name: str, stride: int) -> list[Image.Image]:
    """A run's newest video, smaller, every so many frames."""
    videos = sorted(run.glob(name))
    if not videos:
        raise SystemExit(f"{run} has no {name}")
    frames = [Image.fromarray(frame) for frame in imageio.mimread(videos[-1], memtest=False)[::stride]]
    return [f.resize((WIDTH, WIDTH * f.height // f.width), Image.Resampling.LANCZOS) for f in frames]


def main() -> None:
    """Parse, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*CASTS, *FILMED))
    parser.add_argument("run", type=Path, nargs="?", help=f"{', '.join(FILMED)}: the run's folder")
    options = parser.parse_args()
    if options.what in FILMED and options.run is None:
        parser.error(f"{options.what} needs the run's folder")
    pages = filmed(options.run, *FILMED[options.what]) if options.what in FILMED else robots(CASTS[options.what])
    DOCS.mkdir(exist_ok=True)
    out = DOCS / f"{options.what}.webp"
    if options.what == "navigate":
        pages = pages[::2]
    duration = {"robots": 50, "navigate": 200, "demo": 100, "generalist": 400}[options.what]  # ms: real time
    pages[0].save(out, save_all=True, append_images=pages[1:], duration=duration, loop=0, quality=65, method=4)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB, {len(pages)} pictures of {pages[0].width} x {pages[0].height}")


if __name__ == "__main__":
    main()
