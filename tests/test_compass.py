"""The whole experiment of many robots: commands that rpd understands, in an order in which each finds what it needs."""

import importlib.util
import sys
from pathlib import Path

import pytest

from rpd.cli.collect import CollectOptions
from rpd.cli.options.generalist import GeneralistOptions
from rpd.cli.options.train import train_options
from rpd.config.launch import LaunchConfig
from rpd.config.parser import parse
from rpd.launch.local import LocalLauncher
from rpd.training.sweep import cells_of, read

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("compass", ROOT / "scripts" / "compass.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["compass"] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compass"]
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.parametrize("name", ["navigate", "tabletop"])
def test_each_command_finds_its_inputs(name, script):
    domain = script.DOMAINS[name]
    made = set()
    for stage in script.stages(name, domain):
        for verb, words in ((step.words[1], step.words[2:]) for step in stage):
            if verb == "data":
                assert words[0] == "collect" and parse(CollectOptions, words[1:], verb).env.robot == domain.home
            elif verb == "train":
                assert set(map(str, train_options(words).demos)) <= made
            elif verb == "sweep":
                sweep = read(Path(words[0]))
                assert {cell.base or cell.pretrained_path for cell in cells_of(sweep)} - {None} <= made
                made |= {str(cell.run_dir) for cell in cells_of(sweep)}
            elif verb == "generalist":
                options = parse(GeneralistOptions, words, verb)
                assert set(map(str, options.runs)) <= made and not set(options.held_out) & {
                    p.name.split("-")[1] for p in options.runs
                }
            else:
                assert verb == "report" and set(words[: words.index("--out")]) <= made
        made |= {str(step.folder) for step in stage}


def test_off_policy_has_as_many_labels_and_steps(script):
    """The comparison with rounds is at equal gradient steps and episodes."""
    distil = script.stages("navigate", script.DOMAINS["navigate"])[-2]
    with_rounds, without = (parse(GeneralistOptions, step.words[2:], "generalist") for step in distil[:2])
    assert with_rounds.total_steps == without.total_steps
    assert with_rounds.episodes + with_rounds.dagger_iterations * with_rounds.round_episodes == without.episodes


def test_complete_steps_are_skipped(script, tmp_path, capfd):
    step = script.Step(["rpd", "no-such-verb"], tmp_path / "x", ["rpd", "list", "suites"])

    def run():
        return script.run([step], tmp_path, LocalLauncher(0), LaunchConfig(), 1)

    assert run() == 1
    assert f"failed: no-such-verb-x: see {tmp_path}/no-such-verb-x.log" in capfd.readouterr().out
    step.folder.mkdir()
    (step.folder / "config.yaml").write_text("")
    assert run() == 0 and "Suites (rpd eval --suite)" in (tmp_path / "no-such-verb-x.log").read_text()
    assert "no-such-verb-x: 1 of 1 ended" in capfd.readouterr().out
    (step.folder / "result.json").write_text('{"steps": 1}')
    assert run() == 0 and not capfd.readouterr().out


def test_sweeps_launch_their_runs_themselves(script):
    plan = script.stages("navigate", script.DOMAINS["navigate"], ["--launcher", "ray"])
    sweeps = [step for stage in plan for step in stage if step.words[1] == "sweep"]
    assert len(sweeps) == 3 and all(step.here and step.words[-2:] == ["--launcher", "ray"] for step in sweeps)
