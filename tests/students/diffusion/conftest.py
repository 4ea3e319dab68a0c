import pytest
import torch

from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.students.config import StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy

pytest.importorskip("diffusers")
TINY = {"width": 8, "n_obs_steps": 2, "horizon": 4, "num_train_timesteps": 20}


def make_spec(cameras=(), discrete=(False, True)):
    observations = {"state": ObsSpec(shape=(2,), dtype="float32")}
    observations |= {f"image.{c}": ObsSpec(shape=(16, 16, 3), dtype="uint8") for c in cameras}
    return EnvSpec(
        task="tabletop/PushCube", embodiment=Embodiment(name="panda", num_joints=7, descriptor={}),
        observations=observations, state_names=("goal.x", "q.0"), state_scaled=(True, True),
        action=ActionSpec(names=("x", "gripper"), units=("m", ""), scale=(0.1, 1.0), discrete=discrete),
        control_hz=20.0, max_episode_steps=50, reward="dense",
    )  # fmt: skip


@pytest.fixture
def build():
    """A small policy with random weights, whose demonstrations spanned [-1, 1]; keywords are of DiffusionConfig."""

    def build(cameras=(), **settings):
        torch.manual_seed(0)
        student = StudentConfig(type="diffusion", image_feature_dim=8, image_channels=(8, 8))
        policy = DiffusionPolicy(make_spec(cameras), student, DiffusionConfig(**{**TINY, **settings}))
        policy.prepare(torch.randn(64, 2), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).repeat(32, 1))
        return policy.eval()

    return build
