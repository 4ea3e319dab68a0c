"""What a student believes of a scene."""

import torch

from rpd.envs.privileged_state import ManipulationState
from rpd.students.config import StudentConfig
from rpd.students.networks.state_estimator import TOLERANCE, StateEstimator
from tests.students.test_actor_critic import make_obs, make_spec

SMALL = StudentConfig(image_feature_dim=16, image_channels=(8, 8))


def test_error_is_in_units_of_a_way_and_weighted() -> None:
    estimator = StateEstimator(make_spec(("hand",)), SMALL)
    scene = ManipulationState.empty(1)
    ManipulationState.get(scene, "object_pos")[:] = torch.tensor([0.3, 0.0, 0.0])
    ManipulationState.get(scene, "tcp_pos")[:] = torch.tensor([0.1, 0.0, 0.0])
    ManipulationState.get(scene, "target_pos")[:] = torch.tensor([0.3, 0.0, 0.5])
    for name in ("object_quat", "tcp_quat"):
        ManipulationState.get(scene, name)[:, 0] = 1.0
    truth = torch.tensor([[4.0, 0, 0, 0, 0, 10.0, 1.0, 0, 0]])
    torch.testing.assert_close(estimator.error(torch.zeros(1, 9), scene), -truth)
    error = torch.tensor([[0.2, 0, 0, 0, 0, 0, 2.0, 0, 1.0]])
    torch.testing.assert_close(estimator.loss(error).item(), 0.1**2 + 0.3**2 + 0.2**2)
    assert len(TOLERANCE) == ManipulationState.relative_dim


def test_beliefs_come_from_state_and_every_camera() -> None:
    torch.manual_seed(0)
    estimator, obs = StateEstimator(make_spec(("hand", "base")), SMALL), make_obs(4, ("hand", "base"))
    estimator(obs["state"], obs).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in estimator.parameters())
