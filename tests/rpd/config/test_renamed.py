"""An option by its name of version 0.1 answers with today's."""

import pytest

from rpd.cli.main import main
from rpd.cli.options.train import TrainOptions
from rpd.config.loader import file_settings
from rpd.config.parser import option_names
from rpd.config.renamed import RENAMED
from rpd.envs.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "new"),
    [
        ("train tabletop/Reach --ppo.lr 1e-4", "--ppo.learning-rate"),
        ("train tabletop/Reach --total-steps 10", "--total-timesteps"),
        ("train tabletop/Reach --env.obs image", "--env.obs-mode"),
        ("residual runs/x tabletop/Reach --residual.ramp 0.1", "--residual.alpha-warmup-fraction"),
        ("eval runs/x --randomize mass", "--domain-randomization"),
        ("generalist runs/x --rounds 2", "--dagger-iterations"),
    ],
)
def test_old_option_names_the_new_one(words, new, capsys):
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"': it is {new} now" in said


def test_old_key_in_a_settings_file_names_the_new_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ppo: {entropy_coef: 0.1}")
    with pytest.raises(ConfigError, match=r"'ppo\.entropy_coef': it is ppo\.ent_coef now"):
        file_settings(path)


def test_no_old_name_is_an_option():
    valid = option_names(TrainOptions)
    assert not {old for old, new in RENAMED.items() if new in valid} & set(valid)


@pytest.mark.parametrize(("old", "new"), [("distill", "generalist"), ("replay", "log"), ("collect", "data collect")])
def test_old_verb_names_the_new_one(old, new, capsys):
    assert main([old, "x"]) == 2
    assert f"unknown verb '{old}': it is `rpd {new}` now" in capsys.readouterr().err
