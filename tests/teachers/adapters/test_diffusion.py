"""A diffusion policy as a teacher: samples, memory, and that it stays frozen."""

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError
from rpd.students.config import StudentConfig
from rpd.students.diffusion.config import DiffusionConfig
from rpd.students.diffusion.policy import DiffusionPolicy
from rpd.teachers import registry
from tests.students.diffusion.conftest import make_spec

pytest.importorskip("diffusers")
SPEC = make_spec()


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    policy = DiffusionPolicy(SPEC, StudentConfig(type="diffusion"), DiffusionConfig(width=8, horizon=4, num_train_timesteps=20))
    policy.prepare(torch.randn(8, 2), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    policy.save_pretrained(tmp_path)
    return tmp_path


def obs(value):
    return TensorDict({"state": torch.full((3, 2), value)}, batch_size=[3])


def test_answers_with_samples(folder):
    teacher = registry.make(f"{folder},samples=5,sampler=rti:timesteps=2", SPEC)
    before = {name: tensor.clone() for name, tensor in teacher.weights().items()}
    answer = teacher.label(obs(0.0), [""] * 3)
    assert answer.samples.shape == (3, 5, 2) and answer.mean.shape == answer.std.shape == (3, 2) and answer.valid.all()
    torch.testing.assert_close(answer.mean, answer.samples.mean(1))
    assert set(answer.samples[..., 1].unique().tolist()) <= {-1.0, 1.0} and answer.samples.abs().max() <= 1
    assert teacher.is_stateful and teacher.output_fields == {"mean", "std", "samples"}
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.weights().items())


def test_state_dict_resumes_sampling(folder):
    teacher, again = (registry.make(f"{folder},sampler=rti:timesteps=2", SPEC) for _ in range(2))
    teacher.seed(3)
    for value in (0.0, 1.0):
        teacher.act(obs(value), [""] * 3)
        teacher.label(obs(value), [""] * 3)
    again.load_state_dict({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    for _ in range(2):
        assert torch.equal(teacher.act(obs(2.0), [""] * 3), again.act(obs(2.0), [""] * 3))
        assert torch.equal(teacher.label(obs(2.0), [""] * 3).samples, again.label(obs(2.0), [""] * 3).samples)


@pytest.mark.parametrize("option, message", [("samples=1", "samples=1"), ("sampler=rit", "did you mean rti"), ("x=1", "'x'")])
def test_bad_options(folder, option, message):
    with pytest.raises(ConfigError, match=message):
        registry.make(f"{folder},{option}", SPEC)
