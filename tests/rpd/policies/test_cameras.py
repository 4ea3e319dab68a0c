"""Teachers that look: each is shown its cameras, whoever else looks, and nothing is rendered twice."""

import pytest
import torch

from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError
from rpd.envs.tabletop.camera import Renderer
from rpd.policies.cameras import with_teacher_cameras
from rpd.teachers.base import CameraRequest, Teacher, TeacherOutput
from rpd.teachers.families import FAMILIES, Family
from rpd.teachers.vla.images import camera_images
from rpd.training.on_policy import OnPolicyTrainer


class Watcher(Teacher):
    """Moves as the pictures of its camera are bright, and remembers them."""

    output_fields = frozenset({"mean"})
    needs_teacher_images = True

    def __init__(self, camera: str) -> None:
        self.camera, self.seen = camera, []

    def check_env(self, spec) -> None:
        pass

    def label(self, obs, instructions, student_action=None) -> TeacherOutput:
        self.seen.append(camera_images(obs, self.camera, self.name, "Watcher").clone())
        bright = self.seen[-1].float().mean((1, 2, 3)) / 255
        return TeacherOutput(bright[:, None].expand(-1, 7), valid=torch.ones(len(bright), dtype=torch.bool))


def camera_request(camera, options) -> CameraRequest:
    return CameraRequest((camera,), int(options.get("size", 16)))


def from_string(camera, options, spec, device) -> Watcher:
    return Watcher(camera)


@pytest.fixture(autouse=True)
def watchers(monkeypatch):
    monkeypatch.setitem(FAMILIES, "watcher", Family(__name__, "watcher:CAMERA", "looks"))


def test_cameras_are_the_union_over_teachers() -> None:
    config = EnvConfig()
    assert with_teacher_cameras(config, None, "scripted") is config
    seen = with_teacher_cameras(config, "watcher:front", None, "watcher:wrist", "scripted", "watcher:front")
    assert seen.teacher_cameras == ("front", "wrist") and seen.teacher_image_size == 16
    named = EnvConfig(teacher_cameras=("side",), teacher_image_size=8)
    assert with_teacher_cameras(named, "watcher:front", "watcher:wrist,size=32") is named
    assert with_teacher_cameras(EnvConfig(), "zoo/tabletop").teacher_image_size == 64


def test_two_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(watcher:front: 16 pixels, watcher:wrist,size=32: 32 pixels\), and an env") as e:
        with_teacher_cameras(EnvConfig(), "watcher:front", "watcher:wrist,size=32")
    assert str(e.value).endswith("--env.teacher-image-size and --env.teacher-cameras front wrist")


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_base_and_teacher_look_through_their_own_cameras_at_once(small, tmp_path, monkeypatch, fraction) -> None:
    config = small(
        base="watcher:front", teacher="watcher:wrist", distill={"divergence": "mse", "label_fraction": fraction},
        ppo={"num_steps": 12},
    )  # fmt: skip
    trainer, rendered = OnPolicyTrainer(config, tmp_path), []
    render = Renderer.render
    monkeypatch.setattr(
        Renderer, "render", lambda self, *args: (rendered.append(self.camera.name), render(self, *args))[1]
    )  # fmt: skip
    trainer.iterate()
    assert sorted(rendered) == ["front"] * 12 + ["wrist"] * 12  # once per step, across the resets after 10
    base, teacher = trainer.env.base.seen, trainer.teacher.seen
    assert [len(images) for images in teacher] == [round(4 * fraction)] * 12 and len(base) == 13  # one after the reset
    assert torch.equal(trainer.collector.batch["obs", "base_action"][-1, :, 0], base[-2].float().mean((1, 2, 3)) / 255)
    trainer.close()


@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
def test_camera_that_the_student_has_is_not_rendered_again(small, tmp_path, monkeypatch, cameras) -> None:
    """Nor may the teacher be shown another moment than the student: first observations of new episodes included."""
    env = {"obs_mode": "rgb", "cameras": cameras, "image_size": 16}
    trainer, rendered = OnPolicyTrainer(small(teacher="watcher:front", env=env, ppo={"num_steps": 12}), tmp_path), []
    render = Renderer.render
    monkeypatch.setattr(
        Renderer, "render", lambda self, *args: (rendered.append((self.camera.name, len(args[3]))), render(self, *args))[1]
    )  # fmt: skip
    trainer.iterate()
    ended = trainer.collector.batch["terminated"] | trainer.collector.batch["truncated"]
    finals = ended.any(1).sum().item()  # steps after which last observations are rendered, too
    assert len(rendered) == (12 + finals) * len(cameras)
    assert sum(count for _, count in rendered) == (12 * 4 + ended.sum().item()) * len(cameras)
    for t, images in enumerate(trainer.teacher.seen):
        assert torch.equal(images, trainer.collector.batch["obs", "image.front"][t])
    trainer.close()
