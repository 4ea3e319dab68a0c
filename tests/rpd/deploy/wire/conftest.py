"""Parts that the tests of every fake controller share; each module has its own `fake` and `config`."""

import pytest

from tests.rpd.deploy.wire import deployed


@pytest.fixture(scope="module")
def policy(server, config):
    policy = deployed.load(server.url, deployed.TASK, config)
    yield policy
    policy.close()


@pytest.fixture
def robot(fake, config):
    """The connected driver, at the beginning of an episode."""
    fake.ask("begin")
    robot = deployed.connected(config, fake.host)
    yield robot
    robot.close()


@pytest.fixture
def run(fake, robot, config, policy, tmp_path, swing):
    """`run(fault)`: the arm swings, and the fault begins."""
    return lambda fault, **rest: deployed.run(fake, robot, policy, config, tmp_path / "a.rpdlog", fault, **rest)
