"""One source for every number of a resumed run: its config.yaml, whole; and complete means all that a run writes."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from rpd.cli import finetune as cloning
from rpd.cli import train
from rpd.cli.main import main
from rpd.cli.options.finetune import FinetuneOptions
from rpd.config.generalist import DistillRun
from rpd.config.resume import MAY_CHANGE, check_complete, flat, reconcile, write
from rpd.config.schema import RunConfig
from rpd.config.vla_finetuning import CloneConfig
from rpd.envs.errors import ConfigError
from rpd.runs import lifecycle
from rpd.runs.reader import read_run
from rpd.training.on_policy import OnPolicyTrainer

CONFIGS = {
    RunConfig: RunConfig(task="tabletop/Reach"), DistillRun: DistillRun(runs=(Path("a"),)), CloneConfig: CloneConfig(),
}  # fmt: skip


@pytest.fixture
def done(small, tmp_path, monkeypatch):
    """A complete run of one iteration."""
    monkeypatch.chdir(tmp_path)
    assert OnPolicyTrainer(small(total_timesteps=32, algorithm="ppo", teacher=None), Path("x")).run()
    return Path("x")


def edit(path, **changes):
    """Change options of a run's config.yaml; None removes one."""
    tree = yaml.safe_load((path / "config.yaml").read_text())
    for name, value in changes.items():
        *groups, last = name.split("__")
        group = tree
        for key in groups:
            group = group[key]
        group[last] = value
        if value is None:
            del group[last]
    (path / "config.yaml").write_text(yaml.safe_dump(tree, explicit_end=True))


def refused(words, capsys):
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_learning_rate_of_an_edited_configuration_applies(done, capsys):
    edit(done, total_timesteps=64, ppo__learning_rate=1e-5)
    capsys.readouterr()
    assert main(["train", "--resume", "x"]) == 0
    assert (
        "edited in config.yaml since the checkpoint: ppo.learning_rate 0.0003 -> 1e-05, total_timesteps 32 -> 64"
        in capsys.readouterr().out
    )
    from safetensors.torch import load_file

    tensors = load_file(done / "checkpoints" / "last" / "training_state" / "tensors.safetensors")
    assert tensors["optimizer.lr"].tolist() == [1e-5]
    assert yaml.safe_load((done / "config.yaml").read_text())["ppo"]["learning_rate"] == 1e-5
    assert json.loads((done / "result-32.json").read_text())["steps"] == 32  # what it had reached before
    assert json.loads((done / "result.json").read_text())["steps"] == 64


READERS = ["train --resume x", "train --config x/config.yaml", "report x", "generalist x"]


@pytest.mark.slow
@pytest.mark.parametrize("words", READERS)
def test_key_given_twice_is_refused_wherever_the_file_is_read(words, done, capsys):
    (done / "config.yaml").write_text("total_timesteps: 64\n" + (done / "config.yaml").read_text())
    said = refused(words.split(), capsys)
    assert "config.yaml: not valid YAML in line " in said and "'total_timesteps' is there twice" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env__num_envs": 8}, "env.num_envs 8 cannot change within a run, which has 4"),
        ({"student__hidden_dims": [8, 8]}, "student.hidden_dims [8, 8] cannot change within a run, which has [16]"),
        ({"seed": 7}, "seed 7 cannot change"),
        ({"algorithm": "dagger"}, "algorithm dagger cannot change"),
        ({"env__robot": "xarm6"}, "env.robot xarm6 cannot change within a run, which has nothing"),
        ({"distill__divergence": "mse"}, "distill.divergence mse cannot change"),
        ({"eval_freq": None}, "eval_freq is missing: put it back (the checkpoint was made with 64)"),
        ({"ppo__gamma": None}, "ppo.gamma is missing: put it back (the checkpoint was made with 0.8)"),
    ],
)
def test_fixed_option_changed_on_resume_gives_one_line(changes, said, done, capsys):
    edit(done, total_timesteps=64, **changes)
    assert f"x/config.yaml: {said}" in refused(["train", "--resume", "x"], capsys)
    assert (done / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", CONFIGS, ids=lambda m: m.__name__)
def test_every_option_applies_or_is_refused(model, tmp_path):
    config = CONFIGS[model]
    saved = flat(config.model_dump(mode="json"))
    names = set(saved) | {".".join(n.split(".")[:i]) for n in saved for i in (1, 2)}
    assert set(MAY_CHANGE[model]) <= names, "an option of this name"
    write(tmp_path, config)
    assert reconcile(tmp_path / "config.yaml", config, config.model_dump(mode="json")) == []
    for name, value in saved.items():
        before = other(config, name, value)
        may = any(name == n or name.startswith(f"{n}.") for n in MAY_CHANGE[model])
        if may:
            assert len(reconcile(tmp_path / "config.yaml", config, before)) == 1
        else:
            with pytest.raises(ConfigError, match=f"{name} .* cannot change within a run"):
                reconcile(tmp_path / "config.yaml", config, before)


def other(config: BaseModel, name, value):
    """The configuration with another value of an option, as a checkpoint may have it."""
    tree = config.model_dump(mode="json")
    *groups, last = name.split(".")
    group = tree
    for key in groups:
        group = group[key]
    group[last] = f"not {value}"
    return tree


def test_cut_configuration_is_refused_at_any_length(done, capsys):
    text = (done / "config.yaml").read_text()
    assert text.endswith("\n...\n")
    for length in itertools.chain(range(0, len(text) - 5, 97), (len(text) - 5, len(text) - 3)):
        with pytest.raises(ConfigError, match=r"config\.yaml is cut off"):
            check_complete(done / "config.yaml", text[:length])
    (done / "config.yaml").write_text(text[: len(text) // 2])
    for words in (["train", "--resume", "x"], ["generalist", "--resume", "x"], ["teacher", "finetune", "--resume", "x"]):
        assert "x/config.yaml is cut off" in refused(words, capsys)
    assert "x/config.yaml is cut off" in refused(["train", "tabletop/Reach", "--config", "x/config.yaml"], capsys)
    with pytest.raises(ConfigError, match="is cut off"):
        read_run(done)


def test_report_is_written_by_a_resume_where_it_is_missing_or_cut(done, capsys):
    assert main(["train", "--resume", "x"]) == 0
    out = capsys.readouterr().out
    assert "x is complete: 32 steps" in out and "report: x/report.html" in out
    whole = (done / "report.html").read_text()
    (done / "report.html").write_text(whole[:-100])
    assert main(["train", "--resume", "x"]) == 0
    assert (done / "report.html").read_text() == whole
    before = (done / "report.html").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["train", "--resume", "x"]) == 0
    assert "report:" not in capsys.readouterr().out and (done / "report.html").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["", "{", '{"steps": 32, "stu', "[]", "{}", b"\xff\xfe"])
def test_damaged_result_is_ignored(damage, done, capsys):
    expected = json.loads((done / "result.json").read_text())
    (done / "result.json").write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert train.resume(done) == 0
    assert "x/result.json is damaged: the final evaluation is repeated" in capsys.readouterr().out
    assert json.loads((done / "result.json").read_text())["student"] == expected["student"]


def test_teacher_is_measured_again_on_another_number_of_episodes(small, tmp_path, monkeypatch):
    """It was measured before the stop, and is compared with the student on the same episodes."""
    monkeypatch.chdir(tmp_path)
    assert OnPolicyTrainer(small(total_timesteps=32), Path("x")).run()
    edit(Path("x"), total_timesteps=64, final_eval_episodes=5)
    assert main(["train", "--resume", "x"]) == 0
    result = json.loads(Path("x/result.json").read_text())
    assert result["teacher_eval"]["n"] == result["student"]["n"] == result["paired"]["n"] == 5


@pytest.mark.slow
def test_fixed_options_with_resume_are_refused_with_a_fix(done, capsys):
    for options, message in (
        (["--seed", "1"], "x: seed 1 cannot change within a run, which has 0: leave it out, or start another run"),
        (["--env.num-envs", "8"], "x: env.num_envs 8 cannot change within a run, which has 4: leave it out"),
        (["tabletop/PickCube"], "x: task tabletop/PickCube cannot change within a run"),
        (["--name", "y"], "leave out name"),
        (["--save-freq", "7"], "x is complete: 32 steps, save_freq 32 -> 7: ask for more steps to go on"),
        (["--total-timestep", "64"], "unknown option '--total-timestep'"),
    ):
        assert message in refused(["train", "--resume", "x", *options], capsys)
    for verb in (["generalist"], ["teacher", "finetune"]):
        said = refused([*verb, "--resume", "x", "--train-steps", "64"], capsys)
        assert f"x/config.yaml is not of `rpd {' '.join(verb)}`" in said


@pytest.mark.slow
def test_changeable_options_apply_on_resume(done, capsys):
    capsys.readouterr()
    words = ["--total-timesteps", "96", "--eval-freq", "32", "--eval-episodes", "2", "--final-eval-episodes", "4"]
    words += ["--save-freq", "64", "--max-checkpoints", "1", "--device", "cpu", "--num-threads", "2"]
    assert main(["train", "--resume", "x", *words]) == 0
    said = capsys.readouterr().out
    assert "changed: " in said and "total_timesteps 32 -> 96" in said and "resuming x at 32 steps" in said
    run = read_run(done)
    assert run.summary["steps"] == 96 and run.summary["student"]["n"] == 4
    assert sum("eval/success_once" in line for line in run.metrics) == 3
    assert [path.name for path in sorted((done / "checkpoints").glob("0*"))] == ["000000096"]
    assert yaml.safe_load(run.config)["total_timesteps"] == 96
    assert json.loads((done / "result-32.json").read_text())["steps"] == 32
    assert "96" in (done / "report.html").read_text()


def test_failed_option_leaves_the_complete_run_unchanged(done, capsys):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    assert "device 'cuda:99' does not exist" in refused(
        ["train", "--resume", "x", "--total-timesteps", "64", "--device", "cuda:99"], capsys
    )
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before


def test_explicit_default_value_overrides_the_run(done, capsys):
    """Whether an option is given is not told by its value."""
    default = RunConfig(task="tabletop/Reach").eval_freq
    assert main(["train", "--resume", "x", "--total-timesteps", "64", "--eval-freq", str(default)]) == 0
    assert yaml.safe_load((done / "config.yaml").read_text())["eval_freq"] == default


def test_bc_run_killed_before_its_report(tmp_path, monkeypatch, capsys):
    """`rpd teacher finetune`: complete means result and report, too."""
    config = CloneConfig(data=(tmp_path,), train_steps=8)
    write(tmp_path, config)
    result = {"steps": 8, "played": [], "parameters": 1, "episodes": 1, "rows": 1}
    (tmp_path / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(lifecycle, "load_latest_checkpoint", lambda run_dir, config, world: None)
    assert cloning.main(FinetuneOptions(resume=tmp_path, data=(tmp_path,), train_steps=8)) == 0
    assert (tmp_path / "report.html").exists() and "report: " in capsys.readouterr().out
