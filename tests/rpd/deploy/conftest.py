import contextlib
import itertools
import threading
import time

import numpy as np
import pytest
import yaml

websockets = pytest.importorskip("websockets.sync.server")

from websockets.exceptions import ConnectionClosed  # noqa: E402

from rpd.core import realtime  # noqa: E402
from rpd.datasets.deploy_log import format as record  # noqa: E402
from rpd.datasets.deploy_log.format import Recorder  # noqa: E402
from rpd.deploy import config as configs  # noqa: E402
from rpd.deploy.loop import ControlLoop  # noqa: E402
from rpd.deploy.observe import offered  # noqa: E402
from rpd.deploy.policy import PolicyProcess, wanted_spec  # noqa: E402
from rpd.deploy.robots.sim import SimDriver  # noqa: E402
from rpd.envs.control.state_names import own_names  # noqa: E402
from rpd.envs.robots import ROBOTS  # noqa: E402
from rpd.envs.specs import ObsSpec  # noqa: E402
from rpd.teachers.transport.codec import encode  # noqa: E402

TASK = "tabletop/Reach"


@pytest.fixture(scope="session", autouse=True)
def before_others():
    realtime.raise_priority()


class Server:
    """openpi's protocol, and a policy that swings the arm to and fro; with what a test adds to it."""

    def __init__(self):
        self.change = lambda n, action: action
        self.server = websockets.serve(self.handle, "127.0.0.1", 0)
        self.url = f"remote:ws://127.0.0.1:{self.server.socket.getsockname()[1]},action_mapping=env,state=none"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        connection.send(encode({}))
        with contextlib.suppress(ConnectionClosed):
            for n in itertools.count():
                connection.recv()
                action = np.array([0, 0.6 if n // 8 % 2 else -0.6, 0, 0, 0, 0, 1], dtype=np.float32)
                connection.send(encode({"actions": self.change(n, action)[None]}))


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.server.shutdown()


@pytest.fixture
def swing(server):
    """A served policy; set ``swing.change = lambda n, action: ...`` to change its n-th answer."""
    server.change = lambda n, action: action
    return server


WATCHDOG = {"observation_age": 20.0, "policy": 20.0, "max_consecutive_overruns": 400, "command_timeout": 1.5}
"""Limits that a busy machine keeps; the robot's own is the shortest, because `test_faults` waits for it."""


@pytest.fixture(scope="session")
def make_config():
    """`make_config(policy=1.0)`: robot ``sim`` with the limits of `WATCHDOG`, but for the watchdog entries that are given."""

    def make(**watchdog):
        config = configs.load("sim")
        limits = config.watchdog.model_copy(update=WATCHDOG | watchdog)
        return config.model_copy(update={"watchdog": limits})

    return make


@pytest.fixture
def patient_robot(make_config, tmp_path):
    """Path of a robot file: robot ``sim`` with the limits of `WATCHDOG`."""
    path = tmp_path / "patient.yaml"
    config = make_config().model_copy(update={"stop_within": 60.0})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return str(path)


@pytest.fixture(scope="session")
def config(make_config):
    return make_config()


@pytest.fixture
def sim(config, keep):
    """A simulated robot, kept from test to test as long as it lives."""
    return keep("sim", lambda: connected(config))


@pytest.fixture(scope="session")
def keep():
    """Parts that take long to start: `keep(name, make)`; one that has died is made again."""
    kept = {}

    def get(name, make):
        if name not in kept or not alive(kept[name]):
            kept[name] = make()
        return kept[name]

    yield get
    for part in kept.values():
        part.close()


def alive(part):
    return part._child.link.lost is None


def connected(config):
    robot = SimDriver(TASK, config.kinematics, {"front": None}, 32, config.watchdog.command_timeout)
    robot.connect()
    return robot


class Rig:
    """All that a deployment is made of."""

    def __init__(self, robot, policy, config, path, cameras=None, rate=20.0, dry_run=False, operator=None):
        self.robot, self.policy, self.path = robot, policy, path
        self.wish, self.timers = None, []
        head = {"kind": "head", "spec": policy.spec.model_dump_json(), "operator": operator and "keyboard"}
        self.recorder = Recorder(path, head)
        cameras = cameras or {}
        config = config.model_copy(update={"rate": rate})
        self.loop = ControlLoop(robot, policy, cameras, config, self.recorder, lambda: self.wish, dry_run, operator=operator)

    def run(self, steps=60, seed=0):
        self.robot.reset(seed)
        realtime.enable_realtime(realtime.LOOP)
        for timer in self.timers:
            timer.start()
        try:
            return self.loop.run(steps, "go", until_solved=False)
        finally:
            realtime.disable_realtime()
            self.recorder.close()

    def later(self, seconds, action):
        """Call a function `seconds` after the episode starts; returns a list that receives the time of the call."""
        when = []

        def act():
            when.append(time.monotonic())
            action()

        self.timers.append(threading.Timer(seconds, act))
        return when

    def frames(self):
        return list(record.read(self.path))

    def ticks(self):
        return [frame for frame in self.frames() if frame["kind"] == "tick"]

    def settled(self):
        """The robot's counters after it has stopped and braked, and its motion in the 0.2 s after that, rad."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            state = self.robot.read()
            if state.stopped and np.abs(state.velocities).max() < 2e-3:
                break
            time.sleep(0.05)
        before = self.robot.read().joints
        time.sleep(0.2)
        return self.robot.counters, np.abs(self.robot.read().joints - before).max()


@pytest.fixture
def rig(sim, swing, config, keep, tmp_path):
    """`rig(...)` makes a Rig of the kept parts, or of what is given."""

    def make(robot=None, policy=None, config=config, **options):
        robot = robot or sim
        policy = policy or keep("policy", lambda: load(swing.url, robot, config))
        return Rig(robot, policy, config, tmp_path / "record.rpdlog", **options)

    return make


def load(name, robot, config):
    wanted = wanted_spec(name, TASK, config.kinematics)
    names = (*own_names(robot.spec.joints), *robot.spec.tracked)
    state = {"state": ObsSpec(shape=(len(names),), dtype="float32")}
    wanted = wanted.model_copy(update={"observations": state, "state_names": names})
    return PolicyProcess(name, offered(wanted, ROBOTS[config.kinematics], robot.spec.tracked, privileged=True))
