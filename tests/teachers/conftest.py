"""What the tests of all teachers share."""

import pytest

from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec


@pytest.fixture(scope="session")
def spec():
    """An environment with a Panda's deltas: 0.03 m, 0.15 rad, a gripper."""
    return EnvSpec(
        task="toy/Toy",
        embodiment=Embodiment(name="toy", num_joints=7, descriptor={}),
        observations={"state": ObsSpec(shape=(2,), dtype="float32")},
        state_names=("a", "b"),
        action=ActionSpec(
            names=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
            units=("m", "m", "m", "rad", "rad", "rad", "open"),
            scale=(0.03, 0.03, 0.03, 0.15, 0.15, 0.15, 1.0),
            discrete=(False,) * 6 + (True,),
        ),
        control_hz=20,
        max_episode_steps=50,
        reward="sparse",
    )
