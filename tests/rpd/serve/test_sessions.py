"""What a served policy remembers belongs to one client and one episode, whatever the policy and the transport."""

import contextlib
import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rpd.config.serve import ServeConfig
from rpd.envs.config import EnvConfig
from rpd.envs.errors import ConfigError, NonFiniteError, ServerLost
from rpd.envs.registry import make
from rpd.serve.loading import load
from rpd.serve.service import PolicyService
from rpd.students.config import ResidualConfig, StudentConfig
from rpd.students.residual import ResidualActorCritic
from rpd.teachers import registry
from rpd.teachers.adapters.remote_teacher import RemoteTeacher
from rpd.teachers.base import Teacher, TeacherOutput
from rpd.teachers.transport.client import Client
from rpd.teachers.transport.codec import decode

TEACHERS = Path(__file__).parents[2] / "teachers"
WORDS = "lift the cube"


@pytest.fixture(scope="module")
def spec():
    env = make("tabletop/PickCube", EnvConfig(num_envs=1), num_threads=1)
    yield env.spec
    env.close()


@pytest.fixture(scope="module")
def names(tmp_path_factory, spec):
    """Names of teachers, one for each kind of state."""
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from rpd.students.config import StudentConfig
    from rpd.students.diffusion.config import DiffusionConfig
    from rpd.students.diffusion.policy import DiffusionPolicy

    folder = tmp_path_factory.mktemp("teachers")
    (folder / "ids.json").write_text(json.dumps({WORDS: [9, 77, 120]}))
    octo = (
        f"octo:{TEACHERS / 'octo/golden/checkpoint'},action_mapping=metres,unnorm_key=bridge_dataset,"
        f"language={folder / 'ids.json'},"
        "samples=2,ddim=2"
    )
    openvla = f"openvla:{TEACHERS / 'openvla/golden/checkpoint'},unnorm_key=tiny_bridge,action_mapping=metres"
    torch.manual_seed(0)
    policy = DiffusionPolicy(
        spec, StudentConfig(type="diffusion"), DiffusionConfig(width=8, horizon=4, num_train_timesteps=4, n_obs_steps=2)
    )
    policy.prepare(torch.randn(8, len(spec.state_names)), torch.tensor([[-1.0] * 7, [1.0] * 7]))
    policy.save_pretrained(folder / "policy")
    return {
        "octo's window": f"{octo},window=2",
        "octo's chunk": f"{octo},n_action_steps=3",
        "openvla's visual tokens": f"{openvla},cache=0.2",
        "diffusion's chunk and window": f"{folder / 'policy'},samples=2",
        "diffusion's warm start": f"{folder / 'policy'},samples=2,sampler=rti:timesteps=2",
        "a random state": "scripted:noise=0.5",
    }


KINDS = (
    "octo's window", "octo's chunk", "openvla's visual tokens", "diffusion's chunk and window", "diffusion's warm start",
    "a random state",
)  # fmt: skip
REMEMBER = KINDS[:-1]


def question(spec, seed, rows):
    """An observation of everything that a teacher may read."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8, generator=generator)  # flat patches: some stay the same
    image = torch.where(torch.rand(1, 8, 8, 1, generator=generator) < 0.9, torch.full_like(image, 90), image)
    image = image.repeat_interleave(32, 1).repeat_interleave(32, 2).expand(rows, -1, -1, -1).contiguous()
    obs = {"view.front": image, "state": torch.randn(rows, len(spec.state_names), generator=generator)}
    return TensorDict({**obs, "privileged": torch.randn(rows, spec.layout.dim, generator=generator)}, [rows])


def read(service, obs):
    """What of an observation the server takes."""
    known = {*service.required, *service.optional} | ({"view.front"} if service.teacher.needs_teacher_images else set())
    return {key: value for key, value in obs.items() if key in known}


def alone(name, spec, seeds, rows=1):
    teacher = registry.make(name, spec)
    return [teacher.act(question(spec, seed, rows), [WORDS] * rows).numpy() for seed in seeds]


def ask(client, service, spec, seed, **more):
    """As openpi's client does: one observation, and nothing that says which episode it is of."""
    message = {key: value[0].numpy() for key, value in read(service, question(spec, seed, 1)).items()}
    return client.request({**message, "prompt": WORDS, **more})["actions"]


A, B = (1, 2, 3, 4), (11, 12, 13, 14)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_two_clients_never_share(kind, share, names, spec, serving):
    served = serving(registry.make(names[kind], spec), spec)
    one, other = Client(served.url, share=share), Client(served.url, share=share)
    for mine, yours, a, b in zip(A, B, alone(names[kind], spec, A), alone(names[kind], spec, B), strict=True):
        np.testing.assert_allclose(ask(one, served.server.service, spec, mine), a, atol=1e-5)
        np.testing.assert_allclose(ask(other, served.server.service, spec, yours), b, atol=1e-5)
    one.close(), other.close()


@pytest.mark.parametrize("kind", KINDS)
def test_new_connection_starts_empty(kind, names, spec, serving):
    served = serving(registry.make(names[kind], spec), spec)
    for seeds in (A[:2], B):
        client = Client(served.url)
        got = [ask(client, served.server.service, spec, seed) for seed in seeds]
        client.close()
    np.testing.assert_allclose(got, alone(names[kind], spec, B), atol=1e-5)


@pytest.mark.parametrize("kind", REMEMBER)
def test_observation_key_starts_an_episode(kind, names, spec, serving):
    """The random state goes on, unless it is seeded."""
    served = serving(registry.make(names[kind], spec), spec)
    client, service = Client(served.url), served.server.service
    fresh = alone(names[kind], spec, B)
    client.request({"request": "seed", "seed": 0})
    for seed in A:
        ask(client, service, spec, seed)
    client.request({"request": "seed", "seed": 0})
    got = [ask(client, service, spec, seed, reset=seed == B[0]) for seed in B]
    np.testing.assert_allclose(got, fresh, atol=1e-5)
    client.close()


@pytest.mark.parametrize("kind", REMEMBER)
def test_environments_of_one_connection(kind, names, spec, serving):
    """A client that sends them one by one says which one it is."""
    served = serving(registry.make(names[kind], spec), spec)
    client, service = Client(served.url), served.server.service
    for mine, yours, a, b in zip(A, B, alone(names[kind], spec, A), alone(names[kind], spec, B), strict=True):
        np.testing.assert_allclose(ask(client, service, spec, mine, env_id=0), a, atol=1e-5)
        np.testing.assert_allclose(ask(client, service, spec, yours, env_id="right arm"), b, atol=1e-5)
    client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_client_of_a_client(kind, names, spec, serving):
    """A server that serves another server's policy keeps its clients apart there too, with both requests."""
    far = serving(registry.make(names[kind], spec), spec)
    near = serving(registry.make(f"remote:{far.url}", spec), spec)
    clients = [registry.make(f"remote:{near.url}", spec) for _ in range(2)]
    assert clients[0].has_memory == (kind in REMEMBER)
    local = [registry.make(names[kind], spec) for _ in range(2)]
    for turn in range(3):
        for i, (client, teacher) in enumerate(zip(clients, local, strict=True)):
            obs = question(spec, 10 * i + turn, 2)
            torch.testing.assert_close(client.act(obs, [WORDS] * 2), teacher.act(obs, [WORDS] * 2), atol=1e-5, rtol=0)
            got, expected = client.label(obs, [WORDS] * 2).mean, teacher.label(obs, [WORDS] * 2).mean
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    for client in clients:
        client.close()


def test_client_state_is_independent(serving, oracle, toy_spec, toy_obs):
    """Random state, fields that it wants, and the environment that it has asked about."""
    served = serving()
    one, other = (registry.make(f"remote:{served.url}", toy_spec()) for _ in range(2))
    local, obs = oracle(), toy_obs(2)
    one.requested_fields, action = frozenset({"log_prob"}), torch.zeros(2, 3)
    one.seed(3), other.seed(4), local.seed(4)
    one.label(obs, ["a", "b"], action)
    assert torch.equal(other.label(obs, ["a", "b"], action).samples, local.label(obs, ["a", "b"], action).samples)
    one.close(), other.close()


def test_check_changes_nothing_for_others(spec, serving):
    """A teacher fits itself to an environment that it is checked against; only one like its own is let through."""
    other = spec.model_copy(update={"action": spec.action.model_copy(update={"scale": (0.1,) * 7})})
    served = serving(registry.make("scripted", spec), spec)
    client = Client(served.url)
    with pytest.raises(ServerLost, match=r"action scale differ: policy .* has 0.03 .* has 0.1"):
        client.request({"request": "check", "spec": other.model_dump(mode="json")})
    client.close()


class Counter(Teacher):
    """Counts what each row was asked in its episode; its memory cannot be kept apart."""

    name, output_fields = "counter", frozenset({"mean"})

    def __init__(self):
        self.counts = torch.zeros(0)

    def check_env(self, spec):
        pass

    def label(self, obs, instructions, student_action=None):
        if len(self.counts) != len(instructions):
            self.counts = torch.zeros(len(instructions))
        self.counts += 1
        mean = self.counts[:, None].expand(-1, 3) / 100
        return TeacherOutput(mean, torch.ones(len(mean), dtype=torch.bool))

    def act(self, obs, instructions):
        return self.label(obs, instructions).mean

    def reset(self, mask):
        self.counts = self.counts * ~mask if len(mask) == len(self.counts) else torch.zeros(len(mask))


class Counting(Counter):
    """One whose memory can be kept apart, three rows at a time."""

    rows_at_once = 3

    def new_session(self):
        session = copy.copy(self)
        session.counts = torch.zeros(0)
        return session

    def check_instructions(self, instructions):
        if "unknown" in instructions:
            raise ConfigError("instruction 'unknown' is unknown")

    def label(self, obs, instructions, student_action=None):
        label = super().label(obs, instructions, student_action)
        if "fail" in instructions:
            raise ConfigError("out of order")
        return replace(label, mean=label.mean * torch.nan) if "nan" in instructions else label


def count(client, rows=2, **more):
    """How many steps the rows' episodes have."""
    obs = {"state": np.zeros((rows, 2), np.float32), "image.front": np.zeros((rows, 96, 96, 3), np.uint8)}
    answer = client.request({**obs, "prompt": ["a"] * rows, **more})
    return (100 * answer["actions"][:, 0, 0]).round().tolist()


def test_second_client_of_exclusive_teacher_is_refused(serving):
    served = serving(Counter(), name="counter")
    one, other = Client(served.url), Client(served.url)
    assert one.metadata["exclusive"] is True and (count(one), count(one)) == ([1, 1], [2, 2])
    refusal = "counter keeps state that cannot be kept apart for several clients, and another one is connected"
    for _ in range(2):
        with pytest.raises(ServerLost, match=f"{refusal}: wait until it leaves, or start a second server"):
            count(other)
    with pytest.raises(ServerLost, match=refusal):
        other.request({"request": "reset", "mask": np.array([True, True])})
    assert len(served.warnings) == 1 and served.warnings[0].startswith(f"refused a client: {refusal}")
    assert count(one) == [3, 3]
    with pytest.raises(ServerLost, match="or environments: ask about one"):
        count(one, env_id=1)
    one.close()
    assert count(other) == [1, 1]  # empty again
    other.close()


def test_exclusive_teacher_behind_two_servers(serving, toy_spec):
    near = serving(registry.make(f"remote:{serving(Counter()).url}", toy_spec()), name="counter")
    one, other = Client(near.url), Client(near.url)
    assert count(one) == [1, 1]
    with pytest.raises(ServerLost, match="cannot be kept apart"):
        count(other)
    one.close(), other.close()


@pytest.mark.parametrize("exclusive", [True, False])
def test_check_does_not_interleave_with_a_request(exclusive, serving, oracle, toy_spec, monkeypatch):
    """Behind two servers, checks of all clients and what an exclusive teacher is asked share one connection."""
    far = serving(Counter() if exclusive else oracle())
    teacher = registry.make(f"remote:{far.url}", toy_spec())
    near = serving(teacher, name="counter")
    began, request = threading.Barrier(2), teacher.client.request

    def slow(message):
        assert busy.acquire(blocking=False), "two questions at once on one connection"
        try:
            with contextlib.suppress(threading.BrokenBarrierError):  # nobody comes, where they take turns
                began.wait(0.3)
            return request(message)
        finally:
            busy.release()

    busy = threading.Lock()
    monkeypatch.setattr(teacher.client, "request", slow)
    clients = [Client(near.url, retries=0) for _ in range(2)]
    check = {"request": "check", "spec": toy_spec().model_dump(mode="json")}
    with ThreadPoolExecutor(2) as both:
        first = both.submit(count, clients[0]) if exclusive else both.submit(clients[0].request, check)
        both.submit(clients[1].request, check).result()
        first.result()
    for client in clients:
        client.close()


def test_rows_begin_episodes_by_themselves(serving):
    client = Client(serving(Counter()).url)
    count(client), count(client)
    assert count(client, reset=np.array([False, True])) == [3, 1]
    client.request({"request": "reset", "mask": np.array([True, False])})
    assert count(client) == [1, 2]
    for bad in (True, np.array([True]), [True, False], np.zeros(2)):
        with pytest.raises(ServerLost, match=r"reset: an array \[2\] of bools"):
            count(client, reset=bad)
    with pytest.raises(ServerLost, match="env_id: an integer, or a name"):
        count(client, env_id=1.5)
    client.close()


def test_other_rows_than_before(serving):
    """Which of them are the old ones, nobody knows."""
    client = Client(serving(Counter(), name="counter").url)
    count(client, 3)
    with pytest.raises(
        ServerLost, match="counter remembers 3 environments of this client, and 2 are asked about: send a reset"
    ):
        count(client, 2)
    client.request({"request": "reset", "mask": np.array([True, True])})
    assert count(client, 2) == [1, 1]
    client.close()


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_env_id_and_seed_of_any_integer_type(kind, serving, toy_spec):
    """openpi's packer sends numpy scalars; a number names one environment, whatever its type."""
    service = PolicyService(Counting(), toy_spec(), "counter")
    session = service.open()
    number = decode(msgpack.packb({"x": {b"__npgeneric__": True, b"data": 1, b"dtype": np.dtype(kind).str}}))["x"]
    question = {"state": np.zeros(2, np.float32), "image.front": np.zeros((96, 96, 3), np.uint8), "prompt": "a"}
    answers = [next(service.answer(session, {**question, "env_id": i})) for i in (1, number)]
    assert [answer["actions"][0, 0] for answer in answers] == pytest.approx([0.01, 0.02])
    assert [*service.answer(session, {"request": "seed", "seed": number})] == [{}]
    for bad in (np.float32(1), np.bool_(True), True):
        with pytest.raises(ConfigError, match="env_id: an integer, or a name"):
            next(service.answer(session, {**question, "env_id": bad}))


def test_missing_reset_is_detected(serving, toy_spec):
    served = serving(Counter(), toy_spec(max_episode_steps=3))
    client = Client(served.url)
    for _ in range(3):
        count(client)
    assert served.warnings == []
    for _ in range(3):
        count(client)
    (line,) = served.warnings
    assert "4 actions without a reset, and an episode has 3" in line and "\n" not in line
    client.close()


def test_memory_of_all_clients_has_a_limit(names, spec, serving):
    served = serving(registry.make(names["octo's chunk"], spec), spec, name="octo", max_rows=3, max_total_rows=3)
    one, other = (registry.make(f"remote:{served.url}", spec) for _ in range(2))
    one.act(question(spec, 1, 2), [WORDS] * 2)
    with pytest.raises(ServerLost, match="octo would remember 4 environments of all clients together, and the limit is 3: "):
        other.act(question(spec, 1, 2), [WORDS] * 2)
    one.close()
    other.act(question(spec, 1, 2), [WORDS] * 2)
    with pytest.raises(ConfigError, match=r"its server takes 3 at once, not 4: lower env\.num_envs"):
        other.act(question(spec, 1, 4), [WORDS] * 4)
    other.close()


def test_session_limit_per_client(toy_spec):
    service = PolicyService(Counting(), toy_spec(), "counter", max_rows=4)
    greedy, other = service.open(), service.open()
    asked(service, greedy, ["a"] * 2, env_id=0), asked(service, greedy, ["a"] * 2, env_id=1)
    refusal = "counter would remember 5 environments of this client, and the limit is 4: serve with a larger --max-rows"
    for more in ({"env_id": 2}, {"env_id": "x"}):
        with pytest.raises(ConfigError, match=refusal):
            asked(service, greedy, ["a"], **more)
    with pytest.raises(ConfigError, match=refusal):
        [*service.answer(greedy, {"request": "reset", "mask": np.ones(1, bool)})]
    assert asked(service, other, ["a"] * 4) == [1] * 4


def asked(service, session, prompts, **more):
    """How many steps the rows' episodes have, in this process."""
    rows = len(prompts)
    obs = {"state": np.zeros((rows, 2), np.float32), "image.front": np.zeros((rows, 96, 96, 3), np.uint8)}
    *_, answer = service.answer(session, {**obs, "prompt": prompts, **more})
    return (100 * answer["actions"][:, 0, 0]).round().tolist()


def labelled(service, session, prompts):
    rows = len(prompts)
    obs = {"state": np.zeros((rows, 2), np.float32), "image.front": np.zeros((rows, 96, 96, 3), np.uint8)}
    *_, answer = service.answer(session, {"request": "label", "obs": obs, "instructions": prompts})
    return (100 * answer["mean"][:, 0]).round().tolist()


ASK = pytest.mark.parametrize("ask", [asked, labelled])


@ASK
def test_unknown_instruction_of_a_later_slice_changes_nothing(ask, toy_spec):
    service = PolicyService(Counting(), toy_spec(), "counter")
    session = service.open()
    assert ask(service, session, ["a"] * 5) == [1] * 5
    with pytest.raises(ConfigError, match="instruction 'unknown' is unknown"):
        ask(service, session, ["a"] * 4 + ["unknown"])
    assert ask(service, session, ["a"] * 5) == [2] * 5


@ASK
@pytest.mark.parametrize("fault", ["fail", "nan"])
def test_failure_in_a_later_slice_empties_the_memory(ask, fault, toy_spec):
    service = PolicyService(Counting(), toy_spec(), "counter")
    session = service.open()
    assert ask(service, session, ["a"] * 5) == [1] * 5
    for _ in range(2):
        with pytest.raises((ConfigError, NonFiniteError)):
            ask(service, session, ["a"] * 4 + [fault])
    assert ask(service, session, ["a"] * 5) == [1] * 5  # not 4 of some and 3 of others
    assert ask(service, session, ["a"] * 5) == [2] * 5


@pytest.mark.parametrize("kind", ["octo's window", "openvla's visual tokens"])
def test_vlas_check_instructions_before_they_compute(kind, names, spec):
    teacher = registry.make(names[kind], spec)
    teacher.check_instructions([WORDS])
    if kind == "openvla's visual tokens":
        with pytest.raises(ConfigError, match="the instruction is empty"):
            teacher.check_instructions([WORDS, " "])
        return
    teacher.words._tokenizer, teacher.words.source = None, "/nowhere"
    with pytest.raises(ConfigError):
        teacher.check_instructions([WORDS, "unknown"])


def test_slices_have_memories_of_their_own(names, spec):
    """A batch that is answered in slices has the actions of its parts."""
    teacher = registry.make(names["octo's window"] + ",batch=2", spec)
    service = PolicyService(teacher, spec, "octo")
    session, parts = service.open(), [registry.make(names["octo's window"], spec) for _ in range(3)]
    for i, part in enumerate(parts):
        part.seed(i)
    for turn in range(3):
        obs = question(spec, turn, 5)
        message = {**{key: value.numpy() for key, value in read(service, obs).items()}, "prompt": [WORDS] * 5}
        *turns, answer = service.answer(session, message)
        assert turns == [None, None]
        rows = [slice(0, 2), slice(2, 4), slice(4, 5)]
        expected = [part.act(obs[r], [WORDS] * len(obs[r])) for part, r in zip(parts, rows, strict=True)]
        np.testing.assert_allclose(answer["actions"][:, 0], torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_session_leaves_the_teacher_as_it_was(kind, names, spec):
    """In one process too: what one is asked, the other does not know."""
    teacher = registry.make(names[kind], spec)
    session = teacher.new_session()
    for seed in A:
        session.act(question(spec, seed, 2), [WORDS] * 2)
    got = [teacher.act(question(spec, seed, 1), [WORDS]).numpy() for seed in B]
    np.testing.assert_allclose(got, alone(names[kind], spec, B), atol=1e-5)
    assert all(a is b or torch.equal(a, b) for a, b in zip(teacher.weights().values(), session.weights().values(), strict=True))


def test_visual_tokens_of_rows_that_left_are_forgotten(names, spec):
    teacher = registry.make(names["openvla's visual tokens"] + ",batch=2", spec)
    teacher.act(question(spec, 1, 4), [WORDS] * 4)
    teacher.reset(torch.ones(2, dtype=torch.bool))
    assert len(teacher.reader.caches) == 1


@pytest.mark.parametrize("kind", ["octo's window", "octo's chunk", "a random state"])
def test_policy_that_corrects_a_teacher_is_served_with_it(kind, names, spec, serving, tmp_path):
    """As `rpd serve` builds it: with the teacher's cameras and state, a memory of each client, also behind a second server."""
    policy = ResidualActorCritic(spec, StudentConfig(hidden_dims=(8,)), ResidualConfig(), names[kind])
    torch.nn.init.normal_(policy.actor[-1].weight)
    policy.save_pretrained(tmp_path / "policy")
    teacher, served_spec, request = load(ServeConfig(policy=str(tmp_path / "policy"), device="cpu"))
    assert served_spec == spec and request.cameras == registry.camera_request(names[kind]).cameras
    far = serving(teacher, served_spec, camera_request=request)
    near = serving(registry.make(f"remote:{far.url}", spec), spec, camera_request=request)
    for server in (far, near):
        clients = [registry.make(f"remote:{server.url}", spec) for _ in range(2)]
        local = [registry.make(str(tmp_path / "policy"), spec) for _ in range(2)]
        for turn in range(4):
            for i, (client, own) in enumerate(zip(clients, local, strict=True)):
                obs = question(spec, 10 * i + turn, 2)
                torch.testing.assert_close(client.act(obs, [WORDS] * 2), own.act(obs, [WORDS] * 2), atol=1e-5, rtol=0)
                got, expected = client.label(obs, [WORDS] * 2), own.label(obs, [WORDS] * 2)
                torch.testing.assert_close(got.mean, expected.mean, atol=1e-5, rtol=0)
        with pytest.raises(ServerLost, match="observation 'state' is missing"):
            clients[0].client.request({"prompt": [WORDS]})
        for client in clients:
            client.close()


def test_lost_connection_resets_memory_with_a_warning(serving, toy_spec, capsys):
    served = serving(Counter())
    remote = registry.make(f"remote:{served.url}", toy_spec())
    assert isinstance(remote, RemoteTeacher)
    obs = TensorDict({"state": torch.zeros(1, 2), "image.front": torch.zeros(1, 96, 96, 3, dtype=torch.uint8)}, [1])
    remote.act(obs, ["a"])
    remote.client.close()
    remote.act(obs, ["a"])
    assert "connected again; its memory of the running episodes is lost" in capsys.readouterr().err
    remote.close()
