"""Episodes of a trained policy through a real SDK and a fake controller, with a simulated arm and an object tracker."""

import numpy as np

from rpd.core import realtime
from rpd.datasets.deploy_log.format import Recorder
from rpd.deploy import config as configs
from rpd.deploy.loop import ControlLoop
from rpd.deploy.observe import offered
from rpd.deploy.policy import PolicyProcess, wanted_spec
from rpd.envs import user_files
from rpd.envs.control import arm_limits
from rpd.envs.robots import ROBOTS
from tests.rpd.deploy.wire import feetech_motors
from tests.rpd.deploy.wire.deployed import connected, settled
from tests.rpd.deploy.wire.episodes import TRACKED
from tests.rpd.deploy.wire.process import Fake

FAKES = {"xarm6": ("fake_xarm", "tracked-xarm"), "so101": ("fake_feetech", "tracked-lerobot")}
AS_TRAINED = {"rate": 20.0, "ramp": 0.0, "smoothing": 0.0, "gripper_hysteresis": 0.0, "cameras": {}}
"""Changes of a shipped robot file; and its limits are those of --env.limits published."""


def robot_config(robot, fake, folder):
    """Config of an arm with the limits that policies are trained in, and a tracker."""
    config, published = configs.load(robot), arm_limits.published(ROBOTS[robot])
    limits = config.limits.model_copy(update={
        "velocity": tuple(published.velocity.tolist()), "acceleration": tuple(published.acceleration.tolist()),
        "tcp_speed": published.tcp_speed, "tilt": published.tilt,
    })  # fmt: skip
    connection = config.connection if robot == "xarm6" else feetech_motors.connection(config.connection, folder)
    changes = {"driver": FAKES[robot][1], "limits": limits, "connection": {**connection, "tracker": fake.orders}}
    return config.model_copy(update={**AS_TRAINED, **changes})


def episodes(robot, task, policy, seeds, folder, watchdog=None):
    """Run the episodes of seeds; yields the numbers of each.

    Args:
        robot: name of the shipped robot file.
        task: a tabletop task.
        policy: trained policy, from state.
        seeds: seeds of the episodes.
        folder: folder of the records.
        watchdog: changes of the watchdog, for a busy machine.
    """
    user_files.load([TRACKED])
    fake = Fake(FAKES[robot][0], task, robot)
    try:
        config = robot_config(robot, fake, folder)
        config = config.model_copy(update={"watchdog": config.watchdog.model_copy(update=watchdog or {})})
        wanted, loaded = wanted_spec(policy, None, config.kinematics), None
        for seed in seeds:
            fake.ask("begin", seed=seed)
            driver = connected(config, fake.host)
            spec = offered(wanted, ROBOTS[config.kinematics], driver.spec.tracked, privileged=False)
            loaded = loaded or PolicyProcess(policy, spec)
            yield {"seed": seed, **_episode(fake, driver, loaded, config, folder / f"{seed}.rpdlog", wanted.max_episode_steps)}
        if loaded is not None:
            loaded.close()
    finally:
        fake.close()


def _episode(fake, driver, policy, config, path, steps):
    recorder = Recorder(path, {"kind": "head", "spec": policy.spec.model_dump_json(), "config": config.model_dump_json()})
    loop = ControlLoop(driver, policy, {}, config, recorder, lambda: None)
    realtime.enable_realtime(realtime.LOOP)
    try:
        outcome = loop.run(steps, "", until_solved=True)
    finally:
        realtime.disable_realtime()
        recorder.close()
        driver.close()
    return {
        "solved": settled(fake)["success"], "ended by": outcome.reason, "commands": outcome.ticks,
        "missed": outcome.overruns, "oldest measurement, ms": round(1000 * max(outcome.ages, default=0.0), 1),
        "measured to commanded, median, ms": round(1000 * float(np.median(outcome.delays or [0.0])), 1),
        "clamps": dict(outcome.clamps),
    }  # fmt: skip
