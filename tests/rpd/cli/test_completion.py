"""The completion script is executed by bash, as at a prompt."""

import subprocess
import sys

import pytest

from rpd.cli.completion import verbs
from rpd.cli.main import VERBS, main


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "rpd.bash"
    done = subprocess.run(
        [sys.executable, "-m", "rpd", "--print-completion", "bash"], capture_output=True, text=True, check=True
    )
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rpd d", {"data", "deploy", "doctor"}),
        ("rpd train tabletop/Reach --ppo.num", {"--ppo.num-steps", "--ppo.num-minibatches"}),
        ("rpd train --algorithm ", {"rpd", "ppo", "dagger", "bc"}),
        (
            "rpd residual runs/x --residual.al",
            {"--residual.alpha", "--residual.alpha-init", "--residual.alpha-warmup-fraction"},
        ),
        ("rpd data co", {"collect"}),
        ("rpd data collect --po", {"--policy"}),
        ("rpd teacher convert --s", {"--step"}),
    ],
)
def test_bash_completes_verbs_options_and_choices(line, expected, script):
    words = line.split(" ")
    program = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_rpd; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program, str(script), *words], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == expected


def test_every_verb_is_completed():
    assert list(verbs()) == list(VERBS)


@pytest.mark.parametrize(("words", "given"), [(["tcl"], "tcl"), ([], "")])
def test_unknown_shell_is_refused(words, given, capsys):
    assert main(["--print-completion", *words]) == 2
    assert capsys.readouterr().err == f"rpd: --print-completion takes bash, not '{given}'\n"
