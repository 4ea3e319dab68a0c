"""Program of test_rank_reports.py: a verb that fails after the ranks have joined, with the message of each rank."""

import sys

from rpd.cli import main as cli
from rpd.core.joining import joined
from rpd.envs.errors import ConfigError


def fail(messages):
    with joined("cpu") as world:
        raise ConfigError(messages[world.rank])


cli.VERBS["train"] = fail
sys.exit(cli.main(["train", *sys.argv[1:]]))
