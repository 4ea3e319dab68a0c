"""What a student believes of a scene."""

import torch

from envs.privileged import Scene
from students.config import StudentConfig
from students.perception import TOLERANCE, Perception
from tests.students.test_actor_critic import make_obs, make_spec

SMALL = StudentConfig(image_features=16, image_channels=(8, 8))


def test_error_is_in_units_of_a_way_and_weighted() -> None:
    perception = Perception(make_spec(("hand",)), SMALL)
    scene = Scene.empty(1)
    Scene.get(scene, "object_pos")[:] = torch.tensor([0.3, 0.0, 0.0])
    Scene.get(scene, "tcp_pos")[:] = torch.tensor([0.1, 0.0, 0.0])
    Scene.get(scene, "target_pos")[:] = torch.tensor([0.3, 0.0, 0.5])
    for name in ("object_quat", "tcp_quat"):
        Scene.get(scene, name)[:, 0] = 1.0
    truth = torch.tensor([[4.0, 0, 0, 0, 0, 10.0, 1.0, 0, 0]])
    torch.testing.assert_close(perception.error(torch.zeros(1, 9), scene), -truth)
    error = torch.tensor([[0.2, 0, 0, 0, 0, 0, 2.0, 0, 1.0]])
    torch.testing.assert_close(perception.loss(error).item(), 0.1**2 + 0.3**2 + 0.2**2)
    assert len(TOLERANCE) == Scene.relative_dim


def test_beliefs_come_from_state_and_every_camera() -> None:
    torch.manual_seed(0)
    perception, obs = Perception(make_spec(("hand", "base")), SMALL), make_obs(4, ("hand", "base"))
    perception(obs["state"], obs).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in perception.parameters())
