"""A run keeps the limits that it was started with."""

import pytest

from rpd.config import loader
from rpd.envs.control.limit_config import self_contained
from rpd.envs.errors import ConfigError


def test_run_has_the_content_of_the_robot_file():
    config = loader.configure("tabletop/Reach", {"env": {"limits": "panda"}})
    assert loader.with_limits(config).env.limits == self_contained("panda")
    assert loader.with_limits(loader.with_limits(config)) == loader.with_limits(config)
    assert loader.with_limits(loader.configure("tabletop/Reach")).env.limits == "published"


def test_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"robot file gone.yaml does not exist"):
        loader.with_limits(loader.configure("tabletop/Reach", {"env": {"limits": "gone.yaml"}}))
