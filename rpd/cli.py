"""The command line: one function per verb; parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from envs.errors import ConfigError, RunFault
from rpd.arguments import parse
from rpd.config import RunConfig

Positional = tyro.conf.Positional


class TrainOptions(RunConfig):
    """Train a student: from a teacher and a reward (rpd), from the reward (ppo), or from the teacher (dagger)."""

    task: Positional[str | None] = None  # type: ignore[assignment]
    """Task, e.g. tabletop/PickCube; see `rpd list`. Not needed with --resume."""
    name: str | None = None
    """Name of the run's folder; default: made from task, mode and seed."""
    runs_dir: Path = Path("runs")
    """Where run folders are made."""
    config: Path | None = None
    """YAML of options, used as defaults; options on the command line win."""
    resume: Path | None = None
    """Run folder to continue from its newest sound checkpoint. Its own configuration is used."""


def train(args: list[str]) -> int:
    """Train a student."""
    from rpd import run

    options = _train_options(args)
    if options.resume is not None:
        return run.resume(options.resume)
    config = RunConfig.model_validate(options.model_dump(include=set(RunConfig.model_fields)))
    return run.start(config, options.runs_dir, options.name)


def _train_options(args: list[str]) -> TrainOptions:
    """Parse twice: the first pass says which settings files and variants apply, the second has them as defaults."""
    from envs.registry import task_info
    from rpd import settings

    first = parse(TrainOptions, args, "rpd train")
    if first.resume is not None:
        return first
    if first.task is None:
        raise ConfigError("rpd train: which task? e.g. 'rpd train tabletop/PickCube --teacher scripted:noisy'; see `rpd list`")
    task_info(first.task)
    layers = settings.task_settings(first.task) + ([settings.file_settings(first.config)] if first.config else [])
    base: settings.Tree = {"task": first.task}
    for layer in layers:
        base = settings.merge(base, {k: v for k, v in layer.items() if k != "variants"})
    plain = TrainOptions(**settings.validate(base, "settings").model_dump())
    chosen = parse(TrainOptions, args, "rpd train", plain)
    resolved = settings.merge({"task": first.task}, settings.resolve(layers, chosen))
    return parse(TrainOptions, args, "rpd train", TrainOptions(**settings.validate(resolved, "settings").model_dump()))


def evaluate(args: list[str]) -> int:
    """Measure a policy, or compare two on the same episodes."""
    from rpd import evaluation

    return evaluation.main(parse(evaluation.EvalOptions, args, "rpd eval"))


def list_(args: list[str]) -> int:
    """List tasks, robots, teachers and settings."""
    from rpd import listing

    parse(lambda: None, args, "rpd list")
    return listing.main()


def doctor(args: list[str]) -> int:
    """Check this machine, with the fix for each problem."""
    from rpd import doctor as checks

    parse(lambda: None, args, "rpd doctor")
    return checks.main()


def report(args: list[str]) -> int:
    """Write an HTML report of one or several runs."""

    def options(runs: Annotated[list[Path], tyro.conf.Positional], out: Path | None = None) -> tuple[list[Path], Path | None]:
        """Write a self-contained HTML report.

        Args:
            runs: Run folders; several are drawn over each other.
            out: File to write; default: report.html in the first run.
        """
        return runs, out

    from rpd.report import write

    runs, out = parse(options, args, "rpd report")
    print(write(runs, out))
    return 0


def bench(args: list[str]) -> int:
    """Measure speed on this machine."""
    from rpd import bench as benchmarks

    return benchmarks.main(parse(benchmarks.BenchOptions, args, "rpd bench"))


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "list": list_,
    "report": report,
    "bench": bench,
    "doctor": doctor,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0: done. 1: a run that could not go on. 2: bad input, before anything started. 130: interrupted.
    """
    from rpd import __version__

    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        print("usage: rpd VERB ...   (rpd VERB --help for its options)\n")
        print("\n".join(f"  {name:8} {verb.__doc__}" for name, verb in VERBS.items()))
        return 0 if args else 2
    if args[0] == "--version":
        print(__version__)
        return 0
    try:
        if args[0] not in VERBS:
            from envs.errors import unknown_name

            raise unknown_name("verb", args[0], VERBS)
        return VERBS[args[0]](args[1:])
    except ConfigError as error:
        print(f"rpd: {error}", file=sys.stderr)
        return 2
    except RunFault as error:
        print(f"rpd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("rpd: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
