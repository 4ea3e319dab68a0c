import contextlib
import itertools
import threading
import time

import numpy as np
import pytest

websockets = pytest.importorskip("websockets.sync.server")

from websockets.exceptions import ConnectionClosed  # noqa: E402

from envs.tabletop.robots import ROBOTS  # noqa: E402
from rpd.deploy import config as configs  # noqa: E402
from rpd.deploy import realtime, record  # noqa: E402
from rpd.deploy.loop import Loop  # noqa: E402
from rpd.deploy.observe import offered  # noqa: E402
from rpd.deploy.policy import PolicyProcess, wanted_spec  # noqa: E402
from rpd.deploy.record import Recorder  # noqa: E402
from rpd.deploy.robots.sim import SimRobot  # noqa: E402
from teachers.wire.codec import encode  # noqa: E402

TASK = "tabletop/Reach"


@pytest.fixture(scope="session", autouse=True)
def before_others():
    realtime.prefer()


class Server:
    """openpi's protocol, and a policy that swings the arm to and fro; with what a test adds to it."""

    def __init__(self):
        self.change = lambda n, action: action
        self.server = websockets.serve(self.handle, "127.0.0.1", 0)
        self.url = f"remote:ws://127.0.0.1:{self.server.socket.getsockname()[1]}"
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


@pytest.fixture(scope="session")
def config():
    return configs.load("sim")


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
    robot = SimRobot(TASK, config.kinematics, ("front",), 32, config.watchdog.silence)
    robot.connect()
    return robot


class Rig:
    """All that a deployment is made of."""

    def __init__(self, robot, policy, config, path, cameras=None, rate=20.0, dry_run=False):
        self.robot, self.policy, self.path = robot, policy, path
        self.wish = None
        self.recorder = Recorder(path, {"kind": "head", "spec": policy.spec.model_dump_json()})
        cameras = cameras or {}
        config = config.model_copy(update={"rate": rate})
        self.loop = Loop(robot, policy, cameras, config, self.recorder, lambda: self.wish, dry_run=dry_run)

    def run(self, steps=60, seed=0):
        self.robot.reset(seed)
        realtime.promise(realtime.LOOP)
        try:
            return self.loop.run(steps, "go", until_solved=False)
        finally:
            realtime.release()
            self.recorder.close()

    def later(self, seconds, action):
        """Do something while the arm moves; returns a list that will hold when."""
        when = []

        def act():
            when.append(time.monotonic())
            action()

        timer = threading.Timer(seconds, act)
        timer.start()
        return when

    def frames(self):
        return list(record.read(self.path))

    def ticks(self):
        return [frame for frame in self.frames() if frame["kind"] == "tick"]

    def settled(self):
        """The robot's counters, a while after it was told to stop, and how far it still moved meanwhile, rad."""
        time.sleep(0.4)
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
    state = {"state": robot.env.observations["state"]}
    wanted = wanted.model_copy(update={"observations": state, "state_names": robot.env.state_names})
    return PolicyProcess(name, offered(wanted, ROBOTS[config.kinematics], robot.spec.tracked, privileged=True))
