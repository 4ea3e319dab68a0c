"""Searches of settings: trials as ordinary runs, stopped early, continued, recorded; mistakes before anything starts."""

import json
from pathlib import Path

import pytest
import yaml

from rpd.cli.main import main
from rpd.config.loader import configure, file_settings
from rpd.config.schema import RunConfig
from rpd.config.tuning import Dimension, check_space, read_space
from rpd.core.seeds import CURVE_SEED, FINAL_SEED, TRAIN_SEED, TUNING_OFFSET, TUNING_SEED
from rpd.launch.job import Ended
from rpd.training.tuning import PROBLEM, Search, Tuner, ended, open_study, outside

ROOT = Path(__file__).parents[3]
TINY = """
env: {num_envs: 4, max_episode_steps: 10}
student: {hidden_dims: [8]}
ppo: {num_steps: 8, num_minibatches: 2}
total_timesteps: 64
eval_freq: 32
eval_episodes: 2
final_eval_episodes: 2
"""
SPACE = "ppo.learning_rate: {low: 1.0e-4, high: 1.0e-3, log: true}\nppo.update_epochs: {low: 1, high: 2}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("tiny.yaml").write_text(TINY)
    Path("space.yaml").write_text(SPACE)
    return tmp_path


def command(*further: str) -> list[str]:
    words = ["tune", "tabletop/Reach", "--algorithm", "ppo", "--config", "tiny.yaml", "--space", "space.yaml", "--name", "s"]
    return [*words, "--jobs", "1", *further]


def test_search_is_recorded_and_continued(folder, capsys):
    assert main(command("--trials", "1")) == 0
    record = json.loads(Path("runs/s/tuning.json").read_text())
    assert main(command("--trials", "2")) == 0
    out = capsys.readouterr().out
    assert "2 trials in runs/s, 1 of them ended" in out and "2 of 2 ended" in out
    again = json.loads(Path("runs/s/tuning.json").read_text())
    assert again["trials"][0] == record["trials"][0] and len(again["trials"]) == 2
    assert again["budget"] == {"trials": 2, "seeds_per_trial": 1, "steps_per_run": 64, "steps_used": 128}
    result = json.loads(Path(f"runs/s/trial-001-seed{TUNING_SEED}/result.json").read_text())
    assert (result["seed"], result["student"]["first_seed"]) == (TUNING_SEED, FINAL_SEED + TUNING_OFFSET)
    assert again["trials"][1]["value"] == pytest.approx(sum(c[1] for c in result["curve"]) / len(result["curve"]))
    Path("best.yaml").write_text(out[out.rindex("# record") :])
    assert file_settings(Path("best.yaml")) == again["best"] == yaml.safe_load(Path("best.yaml").read_text())
    assert main(command("--ppo.gamma", "0.9")) == 2
    assert "runs/s/tuning.yaml is of a search with other settings: choose another folder with --name" in capsys.readouterr().err


def test_seeds_are_those_of_no_result():
    assert CURVE_SEED + TUNING_OFFSET > 6_000_000 and FINAL_SEED + TUNING_OFFSET + 1_000_000 < TRAIN_SEED
    assert TRAIN_SEED * (1 + TUNING_SEED + 100) < 2**32


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("ppo.learning_rat: {low: 1, high: 2}", [], "learning_rate"),
        ("ppo.gamma: {low: 0.5}", [], "space.yaml: ppo.gamma: has either low and high (and log), or choices"),
        ("ppo.gamma: {low: 0.9, high: 1.5}", [], "ppo.gamma 1.5"),
        ("seed: {low: 1, high: 2}", [], "seed is the same for all trials of a search"),
        ("distill.weight: {low: 1, high: 2}", [], "distill.weight has no effect on tabletop/Reach with algorithm ppo"),
        ("[]", [], "space.yaml: a search space has options"),
        (SPACE, ["--seed", "3"], "--seed is no option of a search"),
        (SPACE, ["--resume", "x"], "give the same command again"),
        (SPACE, ["--eval-freq", "100"], "--eval-freq 100 is beyond --total-timesteps 64"),
        (SPACE, ["--space", "none.yaml"], "cannot read none.yaml"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, space, options, message):
    Path("space.yaml").write_text(space)
    assert main(command(*options)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not Path("runs").exists()


@pytest.mark.parametrize("algorithm", ["ppo", "rpd", "dagger"])
def test_shipped_spaces_apply_and_have_the_present_settings(algorithm, tmp_path):
    over = {"algorithm": algorithm} | ({} if algorithm == "ppo" else {"teacher": "scripted:noisy"})
    config = configure("tabletop/PickCube", over)
    for file in sorted((ROOT / "configs" / "tuning").glob("*.yaml")):
        if (file.stem, algorithm) != ("distillation", "ppo"):
            check_space(space := read_space(file), config, file)
            assert not outside(Search(config, space, 1, 1, tmp_path)), file


class Curves:
    """A launcher of runs that only write a learning curve; the end is that of a run, or of a kill."""

    poll_s = 0.0

    def __init__(self, folder: Path, success: list[float | None]) -> None:
        self.folder, self.success, self.killed = folder, iter(success), list[str]()

    def check(self, jobs, folder):
        pass

    def start(self, job, slot):
        self.name, self.step, self.rate = job.name, 0, next(self.success)
        (self.folder / job.name).mkdir()
        return self

    def poll(self):
        if self.rate is None:
            return Ended(1, "a NaN")
        if self.name in self.killed or self.step == 64:
            return Ended(-9 if self.name in self.killed else 0)
        self.step += 16
        with (self.folder / self.name / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "eval/success_once": self.rate}) + "\n")
        return None

    def kill(self):
        self.killed.append(self.name)


def test_hopeless_trials_are_stopped_and_failed_ones_count(tmp_path):
    config = RunConfig(task="tabletop/Reach", algorithm="ppo", total_timesteps=64, eval_freq=16)
    search = Search(config, {"ppo.gamma": Dimension(low=0.5, high=0.9)}, 8, 1, tmp_path)
    study = open_study(search)
    tuner = Tuner(search, study, Curves(tmp_path, [0.9, 0.8, 0.7, 0.8, 0.9, None, 0.1, 1.0]), 1)
    trials = [trial for trial, _ in tuner.trials()]
    assert [t.state.name for t in trials] == ["COMPLETE"] * 5 + ["FAIL", "PRUNED", "COMPLETE"]
    assert trials[0].params == {"ppo.gamma": config.ppo.gamma}, "the settings of the task come first"
    assert "a NaN, see" in trials[5].user_attrs[PROBLEM] and len(trials[6].intermediate_values) == 1
    assert len(ended(open_study(search))) == 8


def test_an_interrupted_trial_continues_in_its_folders(tmp_path):
    config = RunConfig(task="tabletop/Reach", algorithm="ppo", total_timesteps=64, eval_freq=16)
    search = Search(config, {"ppo.gamma": Dimension(low=0.5, high=0.9)}, 1, 2, tmp_path)
    tuner = Tuner(search, open_study(search), Curves(tmp_path, [0.5]), 1)
    tuner._fill()  # and the process is killed
    (tmp_path / f"trial-000-seed{TUNING_SEED}").rmdir()
    study = open_study(search)
    assert not ended(study)
    ((trial, progress),) = Tuner(search, study, Curves(tmp_path, [0.5, 1.0]), 1).trials()
    assert (trial.value, progress, trial.params) == (0.75, "1 of 1 ended", {"ppo.gamma": config.ppo.gamma})
    assert sorted(p.name for p in tmp_path.glob("trial*0*")) == [
        "trial-000-seed300", "trial-000-seed301", "trial-000.yaml",
    ]  # fmt: skip
