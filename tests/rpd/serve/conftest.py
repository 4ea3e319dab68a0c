import asyncio
import copy
import threading

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import SpecMismatch
from rpd.envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.serve.peer import Limits
from rpd.serve.server import PolicyServer
from rpd.serve.service import PolicyService
from rpd.serve.status import Status
from rpd.teachers.base import Teacher, TeacherOutput

A, BINS, SIZE = 3, 4, 96  # an image of 27 kB: large enough for shared memory


class Oracle(Teacher):
    """Fills every field, as a function of all that it is given and of its seed; remembers resets."""

    name = "oracle"
    output_fields = frozenset({"mean", "std", "samples", "bin_logits", "log_prob"})
    bin_edges = torch.linspace(-1, 1, BINS + 1).expand(A, -1)

    def __init__(self):
        self.rng = torch.Generator().manual_seed(0)
        self.resets, self.asked = [], []
        self.busy = threading.Lock()

    def new_session(self):
        session = copy.copy(self)  # what a test looks at is shared
        session.rng = torch.Generator().manual_seed(0)
        return session

    def check_env(self, spec):
        if spec.task == "toy/Other":
            raise SpecMismatch("oracle cannot do toy/Other")

    def label(self, obs, instructions, student_action=None):
        assert self.busy.acquire(blocking=False), "two requests at once"
        if "fail" in instructions:
            self.busy.release()
            raise RuntimeError("the policy\nis out of order")
        n = len(instructions)
        self.asked.append((n, self.requested_fields))
        seen = obs["image.front"].float().mean((1, 2, 3)) / 255 + obs["state"].sum(-1)
        mean = (seen[:, None] + torch.tensor([len(i) for i in instructions])[:, None] + torch.arange(A)).sin()
        samples = mean[:, None] + torch.randn(n, 2, A, generator=self.rng)
        logits = torch.log_softmax(mean[..., None] * torch.arange(BINS), -1)
        log_prob = None if student_action is None else -(student_action - mean).square()
        valid = obs["state"][:, 0] < 2
        self.busy.release()
        return TeacherOutput(mean, valid, mean.abs() + 0.1, samples, logits, log_prob)

    def act(self, obs, instructions):
        return self.label(obs, instructions).mean.sign()  # not the mean of a label

    def reset(self, mask):
        self.resets.append(mask.tolist())

    def seed(self, seed):
        self.rng.manual_seed(seed)


def make_spec(task="toy/Toy", **changes):
    spec = EnvSpec(
        task=task,
        embodiment=Embodiment(name="toy", num_joints=2, descriptor={"reach": 0.5}),
        observations={
            "state": ObsSpec(shape=(2,), dtype="float32"),
            "image.front": ObsSpec(shape=(SIZE, SIZE, 3), dtype="uint8"),
        },
        state_names=("a", "b"),
        action=ActionSpec(names=("x", "y", "g"), units=("m", "m", ""), scale=(0.1, 0.1, 1), discrete=(False, False, True)),
        control_hz=20,
        max_episode_steps=10,
        reward="sparse",
    )
    return spec.model_copy(update=changes)


def make_obs(n):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return TensorDict({"state": torch.randn(n, 2, generator=generator), "image.front": images}, [n])


class Running:
    """A server in a thread of this process."""

    def __init__(
        self,
        teacher,
        spec,
        port=0,
        token=None,
        limits=None,
        name="oracle",
        camera_request=None,
        max_rows=1024,
        max_total_rows=None,
    ):
        self.teacher, self.status, self.warnings = teacher, Status(every_s=float("inf")), []
        service = PolicyService(teacher, spec, name, camera_request, max_rows, self.warnings.append, None, max_total_rows)
        self.server = PolicyServer(service, "127.0.0.1", port, token, limits or Limits(rate=1e6), self.status)
        self.ready = threading.Event()
        self.thread = threading.Thread(target=asyncio.run, args=(self.run(),))
        self.thread.start()
        assert self.ready.wait(10)
        self.url = f"ws://127.0.0.1:{self.port}"

    async def run(self):
        self.stop_event, self.loop = asyncio.Event(), asyncio.get_running_loop()

        def on_ready(port):
            self.port = port
            self.ready.set()

        await self.server.run(self.stop_event, on_ready)

    def stop(self):
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop_event.set)
            self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def serving():
    """Start servers that end with the test: `serving(token="x").url`."""
    running = []

    def start(teacher=None, spec=None, **options):
        running.append(Running(teacher or Oracle(), spec or make_spec(), **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def toy_spec():
    return make_spec


@pytest.fixture
def toy_obs():
    return make_obs


@pytest.fixture
def oracle():
    return Oracle
