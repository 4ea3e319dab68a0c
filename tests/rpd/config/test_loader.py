import re
from pathlib import Path

import pytest
import yaml

from rpd.cli.options.train import residual_options, train_options
from rpd.config import loader
from rpd.config.loader import Layer, file_settings, merge, resolve, run_settings, task_settings, validate
from rpd.config.schema import RunConfig
from rpd.envs.errors import ConfigError
from rpd.envs.registry import SIMULATORS, list_tasks


@pytest.fixture
def shipped(monkeypatch):
    """Replace the settings shipped for a task."""

    def ship(text):
        monkeypatch.setattr(loader, "task_settings", lambda task: [Layer("shipped", loader._parse(text, "shipped"))])

    return ship


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_merge_replaces_leaves():
    assert merge({"a": {"x": 1, "y": [1, 2]}, "b": 1}, {"a": {"y": [3]}, "c": None}) == {
        "a": {"x": 1, "y": [3]},
        "b": 1,
        "c": None,
    }


def test_layers_in_order(shipped, write):
    shipped("total_timesteps: 10\nseed: 1\nppo: {learning_rate: 0.1, gamma: 0.1, update_epochs: 2}")
    mine = write("seed: 2\nppo: {gamma: 0.2, update_epochs: 3}")
    config = train_options(
        ["tabletop/Reach", "--config", str(mine), "--ppo.update-epochs", "4", "--algorithm", "ppo"]
    ).run_config()
    assert (config.total_timesteps, config.seed) == (10, 2)
    assert (config.ppo.learning_rate, config.ppo.gamma, config.ppo.update_epochs) == (0.1, 0.2, 4)
    assert config.ppo.clip_coef == RunConfig(task="x").ppo.clip_coef and config.task == "tabletop/Reach"


@pytest.mark.slow
def test_variants_apply_where_the_run_meets_them(shipped, write):
    shipped("""
        ppo: {gamma: 0.1}
        variants:
          - {when: {env.reward: sparse}, set: {ppo: {gamma: 0.5}, total_timesteps: 50}}
          - {when: {env.reward: sparse, algorithm: ppo}, set: {ppo: {gamma: 0.6}}}
    """)

    def gamma(*args):
        return train_options(["tabletop/Reach", *args]).ppo.gamma

    assert gamma() == 0.1
    assert gamma("--env.reward", "sparse") == 0.5
    assert gamma("--env.reward", "sparse", "--algorithm", "ppo") == 0.6
    assert gamma("--env.reward", "sparse", "--ppo.gamma", "0.7") == 0.7  # the command line wins
    assert gamma("--config", str(write("env: {reward: sparse}"))) == 0.5  # a file may meet the condition
    assert gamma("--config", str(write("env: {reward: sparse}\nppo: {gamma: 0.8}"))) == 0.8  # and wins over the variant
    mine = write("ppo: {gamma: 0.8}\nvariants: [{when: {env.reward: sparse}, set: {ppo: {gamma: 0.9}}}]")
    assert gamma("--config", str(mine)) == 0.8
    assert gamma("--config", str(mine), "--env.reward", "sparse") == 0.9


def test_resolved_file_reproduces_the_configuration(tmp_path):
    args = ["tabletop/PickCube", "--env.reward", "sparse", "--teacher", "scripted:noisy", "--student.hidden-dims", "8", "9"]
    args += ["--ppo.learning-rate", "1e-5", "--env.cameras", "front", "wrist", "--ppo.target-kl", "None", "--seed", "3"]
    config = train_options(args).run_config()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert validate(file_settings(path), "x") == config
    assert train_options(["--config", str(path)]).run_config() == config  # the file names the task
    assert train_options(["tabletop/PickCube", "--config", str(path), "--seed", "4"]).seed == 4


@pytest.mark.parametrize("task", [t.name for t in list_tasks("tabletop")] + ["maniskill/PickCube-v1", "maniskill/PushT-v1"])
@pytest.mark.parametrize("mode", ["rpd", "ppo", "dagger", "bc"])
def test_shipped_settings_are_sound(task, mode):
    chosen = RunConfig(task=task, algorithm=mode)
    for reward in ("dense", "sparse"):
        chosen.env.reward = reward
        validate(resolve([Layer("task", {"task": task}), *task_settings(task)], chosen), task)


def test_shipped_files_are_all_of_a_task():
    root = Path(loader.__file__).parents[1] / "configs" / "tasks"
    names = {t.name for t in list_tasks()}
    for path in (p for simulator in SIMULATORS for p in root.glob(f"{simulator}/*.yaml")):
        assert path.name == loader.COMMON or f"{path.parent.name}/{path.stem}" in names, path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {lrr: 1}", "unknown key in {} 'ppo.lrr'"),
        ("ppo: {lrr: 1}", "did you mean"),
        ("totalsteps: 1", "did you mean total_timesteps"),
        ("3: 1", "unknown key in {} '3'"),
        ("ppo: 3", "{}: ppo is a group of options, e.g. 'ppo: {{num_steps: ...}}', not 3"),
        ("ppo:", "{}: ppo is a group of options"),
        ("ppo: {learning_rate: -1}", "{}: ppo.learning_rate -1: Input should be greater than 0"),
        ("ppo: {learning_rate: fast}", "{}: ppo.learning_rate 'fast': Input should be a valid number"),
        ("algorithm: foo", "{}: algorithm 'foo': Input should be 'rpd', 'ppo', 'dagger' or 'bc'"),
        ("student: {hidden_dims: [a]}", "{}: student.hidden_dims.0 'a': Input should be a valid integer"),
        ("a: [1", "{}: not valid YAML in line"),
        ("seed: 1\nmode: ppo\nseed: 2", "{}: not valid YAML in line 3: 'seed' is there twice"),
        ("ppo: {learning_rate: 1.0e-4, learning_rate: 3.0e-4}", "{}: not valid YAML in line 1: 'learning_rate' is there twice"),
        ("variants: [{when: {algorithm: ppo}, set: {seed: 1, seed: 2}}]", "'seed' is there twice"),
        ("seed: 2024-13-45", "{}: not valid YAML: month must be in 1..12"),
        ("- 1", "{}: has to be a mapping of options"),
        ("just words", "{}: has to be a mapping of options"),
        ("variants: [{when: {env.rewar: x}, set: {}}]", "unknown option in {} 'env.rewar': did you mean env.reward"),
        ("variants: [{when: {algorithm: ppo}, set: {ppo: {lrr: 1}}}]", "unknown key in {} 'ppo.lrr'"),
        (
            "variants: [{when: {algorithm: ppo}, set: {ppo: {learning_rate: 0}}}]",
            "{}: ppo.learning_rate 0: Input should be greater than 0",
        ),
        ("variants: [{when: {algorithm: ppo}}]", "{}: a variant is '{{when: {{option: value}}, set: {{...}}}}', not"),
        ("variants: [{when: mode, set: {}}]", "{}: a variant is"),
        ("variants: {when: {}, set: {}, x: 1}", "{}: a variant is"),
        ("variants: [3]", "{}: a variant is"),
        ("variants:", "{}: a variant is"),
    ],
)
def test_mistakes_in_a_file_name_it(text, message, write):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        train_options(["tabletop/Reach", "--config", str(path)])
    said = str(caught.value)
    assert message.format(path) in said and "\n" not in said


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        file_settings(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        file_settings(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml: not a text file"):
        file_settings(tmp_path / "x.yaml")


def test_resume_needs_no_task():
    assert train_options(["--resume", "runs/x"]).resume == Path("runs/x")


def test_divergence_has_a_short_name():
    assert train_options(["tabletop/Reach", "--distill", "rkl", "--distill.weight", "3"]).distill.divergence == "rkl"
    assert train_options(["tabletop/Reach", "--distill=opd"]).distill.divergence == "opd"
    with pytest.raises(ConfigError, match="unknown divergence 'kl': did you mean rkl"):
        train_options(["tabletop/Reach", "--distill", "kl"])


def test_runs_from_before_there_were_limits_have_none(tmp_path):
    file = tmp_path / "config.yaml"
    for task, env, limits in (
        ("tabletop/Reach", {"robot": "xarm6"}, "none"),
        ("tabletop/Reach", {"limits": "panda"}, "panda"),
        ("navigate/Open", {"num_envs": 2}, "published"),
    ):
        config = validate({"task": task, "env": env, "algorithm": "ppo"}, "a test").model_dump(mode="json")
        if "limits" not in env:
            del config["env"]["limits"]
        file.write_text(yaml.safe_dump(config))
        assert validate(run_settings(file), "a test").env.limits == limits


def test_no_task():
    with pytest.raises(ConfigError, match="which task"):
        train_options(["--algorithm", "ppo"])


def test_help_shows_the_tasks_own_defaults(shipped, capsys):
    shipped("total_timesteps: 12345\nvariants: [{when: {algorithm: ppo}, set: {total_timesteps: 54321}}]")
    for args, expected in ((["tabletop/Reach"], "12345"), (["tabletop/Reach", "--algorithm", "ppo"], "54321"), ([], "500000")):
        with pytest.raises(SystemExit) as caught:
            train_options([*args, "--help"])
        assert caught.value.code == 0 and f"(default: {expected})" in capsys.readouterr().out


def test_help_of_a_task_shows_the_options_that_apply(capsys, write):
    def shown(*args):
        with pytest.raises(SystemExit) as caught:
            train_options([*args, "--help"])
        assert caught.value.code == 0
        names = re.findall(r"^\W*(--[a-z].*)", capsys.readouterr().out, re.MULTILINE)
        return set(re.findall(r"--([a-z][\w.-]*)", " ".join(names)))

    def groups(options):
        return {name.partition(".")[0] for name in options if "." in name}

    everything = shown()
    state = shown("tabletop/Reach")
    assert groups(everything) - groups(state) == {"diffusion", "bc", "state-estimator"}
    assert state < everything and "env.domain-randomization" in state and "teacher" in state
    assert not state & {"demos", "env.cameras", "env.sim-backend", "env.num-workers", "env.rendering", "student.augment"}
    assert groups(shown("tabletop/Reach", "--algorithm", "ppo")) == {"env", "student", "ppo"}
    assert {"env.cameras", "student.augment", "state-estimator.learning-rate"} <= shown(
        "tabletop/Reach", "--env.obs-mode", "rgb"
    )
    diffusion = shown("--config", str(write("task: tabletop/Reach\nalgorithm: bc\nstudent: {type: diffusion}")))
    assert groups(diffusion) == {"env", "student", "diffusion", "bc"} and {"demos", "bc.sampler"} <= diffusion
    assert not diffusion & {"bc.loss", "student.hidden-dims", "pretrained-path", "teacher"}
    assert "env.domain-randomization" not in shown("navigate/Open")


def test_options_outside_the_help_are_parsed():
    options = train_options(["tabletop/Reach", "--diffusion.depth", "3", "--state-estimator.num-minibatches", "2"])
    assert (options.diffusion.depth, options.state_estimator.num_minibatches) == (3, 2)


@pytest.mark.parametrize(("parsed", "args"), [(train_options, []), (residual_options, ["runs/x"])])
def test_show_config_names_the_source_of_each_value(parsed, args, shipped, write, capsys):
    shipped("save_freq: 10\nvariants: [{when: {algorithm: dagger}, set: {ppo: {gamma: 0.5}}}]")
    mine = write("seed: 3\nppo: {gae_lambda: 0.5}\nvariants: [{when: {seed: 3}, set: {ppo: {update_epochs: 2}}}]")
    words = [
        *args,
        "tabletop/Reach",
        "--config",
        str(mine),
        "--algorithm",
        "dagger",
        "--show-config",
        "--ppo.gae-lambda",
        "0.9",
    ]
    with pytest.raises(SystemExit) as caught:
        parsed(words)
    assert caught.value.code == 0
    title, *lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert title.startswith("tabletop/Reach: ")
    assert [row for row in rows if row[0] not in ("base", "student.init_log_std")] == [
        ["algorithm", "dagger", "command line"],
        ["env.reward", "dense", "task tabletop/Reach"],
        ["ppo.update_epochs", "2", f"{mine}, variant seed 3"],
        ["ppo.gamma", "0.5", "shipped, variant algorithm dagger"],
        ["ppo.gae_lambda", "0.9", "command line"],
        ["seed", "3", str(mine)],
        ["save_freq", "10", "shipped"],
    ]
    extra = [["base", "runs/x", "command line"], ["student.init_log_std", "-2.0", "configs/residual.yaml"]] if args else []
    assert [row for row in rows if row[0] in ("base", "student.init_log_std")] == extra


def test_show_config_is_not_recorded():
    assert "show_config" not in train_options(["tabletop/Reach"]).run_config().model_dump()


def test_show_config_of_a_run(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(train_options(["tabletop/Reach", "--seed", "3"]).run_config().model_dump(mode="json")))
    with pytest.raises(SystemExit):
        train_options(["--resume", str(tmp_path), "--total-timesteps", "9", "--show-config"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["seed", "3", str(file)] in rows and ["total_timesteps", "9", "command", "line"] in rows


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("ppo.learning-rate", "1.0e-4", "ppo.learning_rate has no effect with algorithm bc: use bc.learning_rate"),
        ("ppo.num-steps", "10", "ppo.num_steps has no effect with algorithm bc: use bc.batch_size"),
        ("distill.divergence", "mse", "distill.divergence has no effect with algorithm bc: use bc.loss"),
        ("distill.weight", "1.0", "distill.weight has no effect with algorithm bc: leave it out"),
    ],
)
def test_options_without_effect_are_refused(option, value, message, write):
    group, name = option.replace("-", "_").split(".")
    path = write(f"algorithm: bc\n{group}: {{{name}: {value}}}")
    for call in (
        lambda: train_options(["tabletop/PushCube", "--algorithm", "bc", f"--{option}", value]),
        lambda: train_options(["tabletop/PushCube", "--config", str(path)]),
        lambda: loader.configure("tabletop/PushCube", {"algorithm": "bc", group: {name: yaml.safe_load(value)}}),
        lambda: loader.change(
            loader.configure("tabletop/PushCube", {"algorithm": "bc"}), {group: {name: yaml.safe_load(value)}}
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == message
    assert train_options(["tabletop/PushCube", "--algorithm", "bc"]).ppo.gamma == 0.9  # shipped settings are no user's
    assert train_options(["tabletop/PushCube", f"--{option}", value]).algorithm == "rpd"


def test_fraction_of_an_older_run_becomes_steps(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("task: maniskill/PushCube-v1\ntotal_timesteps: 200000\ndistill: {decay_fraction: 0.15, weight: 2.0}\n")
    assert run_settings(file)["distill"] == {"decay_steps": 30_000, "weight": 2.0}
