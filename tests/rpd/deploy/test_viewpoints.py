import numpy as np
import pytest

from rpd.deploy import config as configs
from rpd.deploy.cameras import check_rates, measured_rates
from rpd.deploy.config import CameraConfig
from rpd.deploy.viewpoints import difference, placed_elsewhere
from rpd.envs.control.kinematics import quat_to_mat, rotvec_to_quat
from rpd.envs.errors import ConfigError
from rpd.envs.specs import Viewpoint
from tests.fakes import fake_spec


def turned(*degrees):
    return quat_to_mat(rotvec_to_quat(np.radians([degrees])))[0]


def test_a_turn_and_a_shift_between_viewpoints_are_measured():
    trained = Viewpoint.of(np.zeros(3), np.eye(3), np.radians(42))
    measured = Viewpoint.of(np.array([0.03, 0.04, 0]), turned(0, 5, 0), np.radians(45))
    far, turn, fov = difference(measured, trained)
    assert (far, np.degrees(turn), np.degrees(fov)) == pytest.approx((0.05, 5, 3))
    mirrored = Viewpoint.of(np.zeros(3), np.diag([-1.0, 1, 1]), np.radians(42))
    assert difference(trained, mirrored)[1] == pytest.approx(0, abs=1e-6)


def test_camera_that_is_elsewhere_than_in_the_training_is_named():
    trained = Viewpoint.of(np.zeros(3), np.eye(3), np.radians(42))
    spec = fake_spec(viewpoints={"image.front": trained, "image.side": trained})
    config = configs.load("sim")
    assert placed_elsewhere(spec, config) == []  # not measured
    near = Viewpoint.of(np.array([0.01, 0, 0]), turned(0, 1, 0), np.radians(43))
    far = Viewpoint.of(np.array([0.0, 0.05, 0]), turned(0, 1, 0), np.radians(43))
    cameras = {"front": CameraConfig(driver="opencv", viewpoint=near), "side": CameraConfig(driver="opencv", viewpoint=far)}
    (line,) = placed_elsewhere(spec, config.model_copy(update={"cameras": cameras}))
    assert line.startswith("camera side is 50 mm and 1.0°")


class Clocked:
    """A camera that delivers an image per `images` readings."""

    def __init__(self, images):
        self.readings, self.images = 0, images

    def read(self):
        self.readings += 1
        return self.readings // self.images, None


def test_camera_that_does_not_deliver_its_rate_is_refused():
    config = configs.load("ur5e")
    config = config.model_copy(update={"cameras": {"front": CameraConfig(driver="opencv", rate=1.0)}})
    check_rates({"image.front": Clocked(1)}, config)
    config = config.model_copy(update={"cameras": {"front": CameraConfig(driver="opencv", rate=3000.0)}})
    with pytest.raises(ConfigError, match=r"camera front delivers \d+\.\d images per second, and cameras\.front\.rate is 3000"):
        check_rates({"image.front": Clocked(10)}, config)
    assert measured_rates({}, 0.0) == {}
