from pathlib import Path

import pytest
import yaml

from envs.errors import ConfigError
from envs.registry import SIMULATORS, list_tasks
from rpd import settings
from rpd.config import RunConfig
from rpd.settings import file_settings, merge, resolve, task_settings, train_options, validate


@pytest.fixture
def shipped(monkeypatch):
    """Replace the settings shipped for a task."""

    def ship(text):
        monkeypatch.setattr(settings, "task_settings", lambda task: [settings._parse(text, f"configs/{task}.yaml")])

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
    shipped("total_steps: 10\nseed: 1\nppo: {lr: 0.1, gamma: 0.1, epochs: 2}")
    mine = write("seed: 2\nppo: {gamma: 0.2, epochs: 3}")
    config = train_options(["tabletop/Reach", "--config", str(mine), "--ppo.epochs", "4", "--mode", "ppo"]).run_config()
    assert (config.total_steps, config.seed) == (10, 2)
    assert (config.ppo.lr, config.ppo.gamma, config.ppo.epochs) == (0.1, 0.2, 4)
    assert config.ppo.clip == RunConfig(task="x").ppo.clip and config.task == "tabletop/Reach"


def test_variants_apply_where_the_run_meets_them(shipped, write):
    shipped("""
        ppo: {gamma: 0.1}
        variants:
          - {when: {env.reward: sparse}, set: {ppo: {gamma: 0.5}, total_steps: 50}}
          - {when: {env.reward: sparse, mode: ppo}, set: {ppo: {gamma: 0.6}}}
    """)

    def gamma(*args):
        return train_options(["tabletop/Reach", *args]).ppo.gamma

    assert gamma() == 0.1
    assert gamma("--env.reward", "sparse") == 0.5
    assert gamma("--env.reward", "sparse", "--mode", "ppo") == 0.6
    assert gamma("--env.reward", "sparse", "--ppo.gamma", "0.7") == 0.7  # the command line wins
    assert gamma("--config", str(write("env: {reward: sparse}"))) == 0.5  # a file may meet the condition
    assert gamma("--config", str(write("env: {reward: sparse}\nppo: {gamma: 0.8}"))) == 0.8  # and wins over the variant
    mine = write("ppo: {gamma: 0.8}\nvariants: [{when: {env.reward: sparse}, set: {ppo: {gamma: 0.9}}}]")
    assert gamma("--config", str(mine)) == 0.8
    assert gamma("--config", str(mine), "--env.reward", "sparse") == 0.9


def test_the_resolved_file_reproduces_the_configuration(tmp_path):
    args = ["tabletop/PickCube", "--env.reward", "sparse", "--teacher", "scripted:noisy", "--student.hidden", "8", "9"]
    args += ["--ppo.lr", "1e-5", "--env.cameras", "front", "wrist", "--ppo.target-kl", "None", "--seed", "3"]
    config = train_options(args).run_config()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert validate(file_settings(path), "x") == config
    assert train_options(["--config", str(path)]).run_config() == config  # the file names the task
    assert train_options(["tabletop/PickCube", "--config", str(path), "--seed", "4"]).seed == 4


@pytest.mark.parametrize("task", [t.name for t in list_tasks("tabletop")] + ["maniskill/PickCube-v1", "maniskill/PushT-v1"])
@pytest.mark.parametrize("mode", ["rpd", "ppo", "dagger", "bc"])
def test_shipped_settings_are_sound(task, mode):
    chosen = RunConfig(task=task, mode=mode)
    for reward in ("dense", "sparse"):
        chosen.env.reward = reward
        validate(resolve([{"task": task}, *task_settings(task)], chosen), task)


def test_shipped_files_are_all_of_a_task():
    root = Path(settings.__file__).parents[1] / "configs"
    names = {t.name for t in list_tasks()}
    for path in (p for simulator in SIMULATORS for p in root.glob(f"{simulator}/*.yaml")):
        recipe = path.name == "rpd.yaml"  # for --config, of any task
        assert path.name == settings.COMMON or recipe or f"{path.parent.name}/{path.stem}" in names, path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {lrr: 1}", "unknown key in {} 'ppo.lrr'"),
        ("ppo: {lrr: 1}", "did you mean ppo.lr"),
        ("totalsteps: 1", "did you mean total_steps"),
        ("3: 1", "unknown key in {} '3'"),
        ("ppo: 3", "{}: ppo is a group of options, e.g. 'ppo: {{num_steps: ...}}', not 3"),
        ("ppo:", "{}: ppo is a group of options"),
        ("ppo: {lr: -1}", "{}: ppo.lr -1: Input should be greater than 0"),
        ("ppo: {lr: fast}", "{}: ppo.lr 'fast': Input should be a valid number"),
        ("mode: foo", "{}: mode 'foo': Input should be 'rpd', 'ppo', 'dagger' or 'bc'"),
        ("student: {hidden: [a]}", "{}: student.hidden.0 'a': Input should be a valid integer"),
        ("a: [1", "{}: not valid YAML in line"),
        ("- 1", "{}: has to be a mapping of options"),
        ("just words", "{}: has to be a mapping of options"),
        ("variants: [{when: {env.rewar: x}, set: {}}]", "unknown option in {} 'env.rewar': did you mean env.reward"),
        ("variants: [{when: {mode: ppo}, set: {ppo: {lrr: 1}}}]", "unknown key in {} 'ppo.lrr'"),
        ("variants: [{when: {mode: ppo}, set: {ppo: {lr: 0}}}]", "{}: ppo.lr 0: Input should be greater than 0"),
        ("variants: [{when: {mode: ppo}}]", "{}: a variant is '{{when: {{option: value}}, set: {{...}}}}', not"),
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


def test_resume_takes_no_other_options():
    assert train_options(["--resume", "runs/x"]).resume == Path("runs/x")
    with pytest.raises(ConfigError, match="--resume continues with the run's own configuration: leave out ppo, total_steps"):
        train_options(["--resume", "runs/x", "--total-steps", "3", "--ppo.lr", "1"])


def test_the_divergence_has_a_short_name():
    assert train_options(["tabletop/Reach", "--distill", "rkl", "--distill.weight", "3"]).distill.divergence == "rkl"
    assert train_options(["tabletop/Reach", "--distill=opd"]).distill.divergence == "opd"
    with pytest.raises(ConfigError, match=r"invalid choice 'kl' for argument '--distill/--distill.divergence'"):
        train_options(["tabletop/Reach", "--distill", "kl"])


def test_no_task():
    with pytest.raises(ConfigError, match="which task"):
        train_options(["--mode", "ppo"])


def test_help_shows_the_tasks_own_defaults(shipped, capsys):
    shipped("total_steps: 12345\nvariants: [{when: {mode: ppo}, set: {total_steps: 54321}}]")
    for args, expected in ((["tabletop/Reach"], "12345"), (["tabletop/Reach", "--mode", "ppo"], "54321"), ([], "500000")):
        with pytest.raises(SystemExit) as caught:
            train_options([*args, "--help"])
        assert caught.value.code == 0 and f"(default: {expected})" in capsys.readouterr().out
