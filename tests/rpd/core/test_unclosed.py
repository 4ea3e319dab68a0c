"""Libraries that do not close are left loaded by the process itself, and by nothing that calls the command line."""

import subprocess
import sys

import pytest

from rpd.cli.main import main
from rpd.core.unclosed import UNCLOSED

PROGRAM = """
import atexit, sys
from rpd.cli.main import run
from rpd.core.unclosed import UNCLOSED
atexit.register(print, "unloaded")
UNCLOSED.extend({unclosed})
sys.argv = ["rpd", *{words}]
run()
"""


@pytest.mark.parametrize(("unclosed", "unloaded"), [([], True), ([1], False)])
@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["wish"], 2)])
def test_process_ends_without_unloading_them(words, code, unclosed, unloaded):
    program = PROGRAM.format(words=words, unclosed=unclosed)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code
    assert ("unloaded" in ended.stdout) is unloaded
    assert (ended.stdout if code == 0 else ended.stderr).strip()


def test_caller_of_the_command_line_goes_on():
    UNCLOSED.append(1)
    try:
        assert main(["--version"]) == 0
    finally:
        UNCLOSED.clear()
