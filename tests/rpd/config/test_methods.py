"""Published methods: each is a valid configuration, has a header, and is chosen by one option."""

from importlib import resources

import pytest
import torch

from rpd.algorithms.distillation import DistillObjective
from rpd.cli.list import main as list_main
from rpd.cli.options.listing import ListOptions
from rpd.cli.options.train import train_options
from rpd.config.loader import method_names
from rpd.envs.errors import ConfigError

ARGS = ["tabletop/Reach", "--teacher", "scripted"]


@pytest.mark.parametrize("name", method_names())
def test_method(name: str) -> None:
    config = train_options([*ARGS, "--method", name]).run_config()
    edges = torch.linspace(-1, 1, 6).expand(2, -1)
    fields = {"mean", "std", "samples", "bin_logits", "log_prob"}
    kinds = [fields, {"mean", "std"}, *([{"mean", "samples"}] if config.distill.target == "teacher" else [])]
    for some in kinds:  # every method works for each kind of teacher, but no target moves between samples
        DistillObjective(config.distill, "x", some, (False, True), config.uses_reward, edges)
    header = resources.files("rpd.configs").joinpath("methods", f"{name}.yaml").read_text().split("distill:")[0]
    assert [word for word in ("# Maps: ", "# Adapted: ", "# Left out: ") if word not in header] == []


def test_options_override_a_method_which_overrides_the_task() -> None:
    method = train_options([*ARGS, "--method", "srpo"]).run_config().distill
    assert (method.divergence, method.gate, method.normalize_gate) == ("rkl", "failed-episodes,entropy", True)
    changed = train_options([*ARGS, "--method", "srpo", "--distill.gate", "scope"]).run_config().distill
    assert (changed.divergence, changed.gate) == ("rkl", "scope")
    assert train_options([*ARGS, "--method", "vla-opd"]).algorithm == "dagger"


def test_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'srp': did you mean srpo"):
        train_options([*ARGS, "--method", "srp"])
    with pytest.raises(ConfigError, match=r"method srpo has a teacher, algorithm ppo has none: use rpd or dagger"):
        train_options(["tabletop/Reach", "--method", "srpo", "--algorithm", "ppo"])


def test_listed(capsys) -> None:
    assert list_main(ListOptions(words=("methods", "rlad"))) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "rlad" in out and "trrd" in out and "ratio" in out and "srpo" not in out
