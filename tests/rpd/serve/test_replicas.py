"""Several servers of one policy are one teacher: the same labels in the same order, also when a server is lost and returns."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rpd.envs.errors import ConfigError, ServerLost, SpecMismatch
from rpd.envs.specs import ObsSpec
from rpd.teachers import registry
from rpd.teachers.adapters.replicas import ReplicatedTeacher, split
from rpd.teachers.adapters.student import _trusted
from rpd.teachers.transport import dispatch

WORDS = ["go", "stop", "a", "turn"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Dropped replicas are tried again soon."""
    monkeypatch.delenv("RPD_SERVE_TOKEN", raising=False)
    monkeypatch.setattr(dispatch, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(dispatch, "LONGEST_DELAY", 0.1)


@pytest.fixture
def replicated(toy_spec):
    """Build a teacher behind servers; it is closed after the test."""
    built = []

    def build(*servers, options="", **spec):
        ref = "remote:" + ",".join(server.url for server in servers) + options
        built.append(registry.make(ref, toy_spec(**spec)))
        return built[-1]

    yield build
    for teacher in built:
        teacher.close()


class Steady:
    """Mixin of an oracle whose labels depend on their rows alone."""

    output_fields = frozenset({"mean", "std"})
    bin_edges = None


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("the condition is never true")


def question(toy_obs, n):
    return toy_obs(n), [WORDS[i % 4] for i in range(n)], torch.randn(n, 3, generator=torch.Generator().manual_seed(n))


def drop(teacher, server, asked):
    """Stop a server, and label until its replica is dropped."""
    server.stop()
    wait_for(lambda: teacher.label(*asked) and teacher._dispatcher._answering() == 1)


def rows_of(server):
    return sum(n for n, _ in server.teacher.asked)


@pytest.mark.parametrize("replicas", [2, 3])
def test_labels_and_actions_equal_those_of_one_server(serving, oracle, replicated, toy_obs, replicas):
    servers, local = [serving() for _ in range(replicas)], oracle()
    teacher = replicated(*servers)
    assert isinstance(teacher, ReplicatedTeacher) and teacher.output_fields == local.output_fields
    assert torch.equal(teacher.bin_edges, local.bin_edges) and teacher.runs_remotely
    for n in (1, 2, 5, 40, 97):
        asked = question(toy_obs, n)
        got, expected = teacher.label(*asked).tensors(), local.label(*asked).tensors()
        assert got.keys() == expected.keys()
        for name in got.keys() - {"samples"}:  # random numbers
            assert torch.equal(got[name], expected[name]), name
        teacher.reset(torch.ones(n, dtype=torch.bool))
        assert torch.equal(teacher.act(*asked[:2]), local.act(*asked[:2]))
    wait_for(lambda: teacher.label(*asked) and all(map(rows_of, servers)))


@pytest.mark.parametrize(
    ("rows", "replicas", "most", "sizes"),
    [
        (1, 2, 1024, [1]),
        (8, 2, 1024, [4, 4]),
        (40, 2, 1024, [16, 16, 8]),
        (128, 2, 1024, [32] * 4),
        (128, 2, 10, [10] * 12 + [8]),
    ],
)
def test_parts_of_a_batch(rows, replicas, most, sizes):
    parts = split(rows, replicas, most)
    assert all(part.stop - part.start <= 3 for part in split(rows, replicas, most, 3))
    assert [part.stop - part.start for part in parts] == sizes
    assert [i for part in parts for i in range(rows)[part]] == list(range(rows))


def test_faster_replica_gets_more_rows(serving, oracle, replicated, toy_obs):
    held = threading.Event()

    class Slow(oracle):
        def label(self, *args):
            held.wait(30)
            return super().label(*args)

    fast, slow = serving(), serving(Slow())
    teacher, asked = replicated(fast, slow, options=",rows=8"), question(toy_obs, 64)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(teacher.label, *asked)
        wait_for(lambda: rows_of(fast) == 56)
        held.set()
        assert torch.equal(answer.result().mean, oracle().label(*asked).mean)
    assert rows_of(slow) == 8


def test_threads_share_the_replicas(serving, oracle, replicated, toy_obs):
    teacher, sizes = replicated(serving(), serving()), [1 + i % 30 for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: teacher.label(*question(toy_obs, n)).mean, sizes))
    for n, mean in zip(sizes, answers, strict=True):
        assert torch.equal(mean, oracle().label(*question(toy_obs, n)).mean)


def test_requested_fields_apply_to_every_replica(serving, replicated, toy_obs):
    servers = serving(), serving()
    teacher = replicated(*servers)
    teacher.requested_fields = frozenset({"std"})
    with torch.inference_mode():
        assert teacher.label(*question(toy_obs, 40)).tensors().keys() == {"mean", "valid", "std"}
    assert {fields for server in servers for _, fields in server.teacher.asked} == {frozenset({"std"})}


def test_lost_replica_is_dropped_and_taken_back(serving, oracle, replicated, toy_obs, capsys):
    """One line for each; the rows of its request go to the other one; it is checked and seeded again."""
    first, second = serving(), serving()
    teacher = replicated(first, second)
    teacher.seed(5)
    asked = question(toy_obs, 64)
    drop(teacher, second, asked)
    for _ in range(3):
        assert torch.equal(teacher.label(*asked).mean, oracle().label(*asked).mean)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"policy server {second.url}: ")
    assert line.endswith(": dropped, 1 of 2 replicas left; it is tried again now and then")
    back = serving(port=second.port)
    wait_for(lambda: back.status.requests >= 2)  # check and seed
    wait_for(lambda: teacher.label(*asked) and rows_of(back))
    assert torch.equal(teacher.label(*asked).mean, oracle().label(*asked).mean)
    lines = capsys.readouterr().err.splitlines()
    assert f"policy server {second.url}: answers again, 2 of 2 replicas" in lines
    assert len(lines) == 2 and "memory" in lines[0]  # the oracle has one, for actions


def test_another_policy_is_not_taken_back(serving, oracle, replicated, toy_obs, capsys):
    first, second = serving(), serving()
    teacher, asked = replicated(first, second), question(toy_obs, 40)
    drop(teacher, second, asked)
    other = serving(port=second.port, name="pythia")
    wait_for(lambda: "not taken back" in "".join(capsys.readouterr().err.splitlines()[-1:]))
    for _ in range(3):
        assert torch.equal(teacher.label(*asked).mean, oracle().label(*asked).mean)
    assert not other.teacher.asked
    threading.Event().wait(0.3)  # several attempts
    assert capsys.readouterr().err == ""


def test_all_replicas_lost(serving, replicated, toy_obs):
    first, second = serving(), serving()
    teacher = replicated(first, second, options=",retries=2")
    first.stop(), second.stop()
    message = rf"no answer of any replica after 2 retries: {first.url} \(.+\), {second.url} \(.+\)"
    for _ in range(2):
        with pytest.raises(ServerLost, match=message):
            teacher.label(*question(toy_obs, 40))
    serving(port=first.port)
    wait_for(lambda: answers(teacher, question(toy_obs, 4)))


def answers(teacher, asked):
    try:
        return teacher.label(*asked) is not None
    except ServerLost:
        return False


def test_error_of_a_request_is_not_asked_elsewhere(serving, replicated, toy_obs, capsys):
    teacher = replicated(serving(), serving())
    with pytest.raises(ServerLost, match="oracle failed: RuntimeError: the policy is out of order"):
        teacher.label(toy_obs(40), ["fail"] * 40)
    assert capsys.readouterr().err == ""
    assert teacher.label(*question(toy_obs, 40)).valid.shape == (40,)


class Counting:
    """Mixin of an oracle with memory: labels count the observations of each row's episode."""

    is_stateful = True
    count = None

    def new_session(self):
        session = super().new_session()
        session.count = None
        return session

    def label(self, obs, instructions, student_action=None):
        label = super().label(obs, instructions, student_action)
        self.count = (torch.zeros(len(instructions)) if self.count is None else self.count) + 1
        label.mean = self.count[:, None].expand(-1, 3).contiguous()
        return label

    def act(self, obs, instructions):
        return self.label(obs, instructions).mean

    def reset(self, mask):
        super().reset(mask)
        if self.count is not None:
            self.count = torch.where(mask, 0, self.count)


def test_rows_of_a_policy_with_memory_stay(serving, oracle, replicated, toy_obs):
    class Counter(Counting, oracle):
        pass

    servers = [serving(Counter()) for _ in range(2)]
    teacher, n = replicated(*servers), 5
    assert teacher.is_stateful and teacher.has_memory
    expected = torch.zeros(n)
    for step in range(6):
        mask = torch.arange(n) % 3 == step % 3
        teacher.reset(mask)
        expected = torch.where(mask, 0, expected) + 1
        answer = teacher.label(*question(toy_obs, n)).mean if step % 2 else teacher.act(*question(toy_obs, n)[:2])
        assert torch.equal(answer[:, 0], expected)
    assert [len(mask) for server in servers for mask in server.teacher.resets[:1]] == [3, 2]
    servers[1].stop()
    with pytest.raises(ServerLost, match=rf"policy server {servers[1].url}: no answer after 0 retries"):
        lost = replicated_without_retries(teacher)
        lost.label(*question(toy_obs, n))
    lost.close()


def replicated_without_retries(teacher):
    return ReplicatedTeacher(teacher.new_session().replicas, retries=0)


def test_replica_with_memory_that_returns_has_lost_it(serving, oracle, replicated, toy_obs, capsys):
    class Counter(Counting, oracle):
        pass

    servers = [serving(Counter()) for _ in range(2)]
    teacher, asked = replicated(*servers, options=",retries=100"), question(toy_obs, 4)
    teacher.label(*asked)
    servers[1].stop()
    teacher.reset(torch.zeros(4, dtype=torch.bool))  # not waited for
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(teacher.label, *asked)
        serving(Counter(), port=servers[1].port)
        assert answer.result().mean[:, 0].tolist() == [2, 2, 1, 1]
    assert f"policy server {servers[1].url}: its memory of the running episodes is lost" in capsys.readouterr().err


def test_replicas_have_random_numbers_of_their_own(serving, replicated, toy_obs):
    teacher = replicated(serving(), serving())
    drawn = []
    for seed in (3, 3, 4):
        teacher.seed(seed)
        drawn.append([replica.label(*question(toy_obs, 4)).samples for replica in teacher.replicas])
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[0][1]) and not torch.equal(drawn[0][1], drawn[2][1])


def test_session_opens_while_a_replica_is_lost(serving, oracle, replicated, toy_obs):
    first, second = serving(), serving()
    teacher, asked = replicated(first, second), question(toy_obs, 40)
    second.stop()
    session = teacher.new_session()
    assert torch.equal(session.label(*asked).mean, oracle().label(*asked).mean)
    session.close()


def test_different_policies_are_refused(serving, oracle, replicated, toy_spec):
    class Steadier(Steady, oracle):
        pass

    first = serving()
    for other, found in (
        (serving(name="pythia"), "they serve oracle and pythia"),
        (serving(spec=toy_spec(control_hz=5)), "spec.control_hz is 20.0 and 5.0"),
        (serving(Steadier()), "bin_edges is .* and None"),
    ):
        names = rf"policy servers {first.url} \(oracle\) and {other.url} \((oracle|pythia)\) are no replicas of one policy"
        with pytest.raises(ConfigError, match=f"{names}: {found}"):
            replicated(first, other)
        with pytest.raises(ConfigError, match=names):
            registry.camera_request(f"remote:{first.url},{other.url}")


def test_identity_of_replicas(serving, replicated):
    first, second = serving(), serving()
    first.server.service.identity, second.server.service.identity = "a" * 64, "b" * 64
    with pytest.raises(ConfigError, match=r"they serve a{40}\.\.\. and b{40}\.\.\."):
        replicated(first, second)
    second.server.service.identity, second.server.service.name = "a" * 64, "/another/path"
    replicated(first, second)
    pair = f"remote:{first.url},{second.url}"
    assert registry.identity(pair) == registry.identity(f"remote:{second.url},retries=2") is not None


def test_mistakes_are_one_line(serving, replicated, toy_spec):
    url = serving().url
    for ref, message in (
        (f"{url},ws://127.0.0.1:1", "no policy server at ws://127.0.0.1:1 .*refused"),
        (f"{url},{url}", f"{url} is given twice"),
        (f"{url},rows=4", f"rows=4 splits batches over replicas, and {url} is a single server"),
        (f"{url},ws://127.0.0.1:1,rows=0", "rows=0: Input should be greater than or equal to 1"),
        (f"{url},retries=2,127.0.0.1:1", "'127.0.0.1:1' is not an option; write key=value"),
        (f"{url},ws://127.0.0.1:1,tokenfile=x", "'tokenfile': did you mean token_file"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            registry.make(f"remote:{ref}", toy_spec())
        assert "\n" not in str(error.value)
    other = serving()
    with pytest.raises(SpecMismatch, match="oracle cannot do toy/Other"):
        registry.make(f"remote:{url},{other.url}", toy_spec("toy/Other"))


def test_described_with_all_addresses(serving, toy_spec):
    first, second = serving(), serving()
    spec = toy_spec(observations={"state": ObsSpec(shape=(2,), dtype="float32")} | dict(toy_spec().observations))
    described = registry.describe(f"remote:{first.url},{second.url}", spec, "go")
    assert described.facts["servers"] == f"{first.url}, {second.url}, serves oracle" and described.refusal is None


def test_policy_that_names_replicas_gets_a_token_for_all_or_none(monkeypatch):
    monkeypatch.setenv("RPD_SERVE_TOKEN_FOR", "ws://a:1, ws://b:1")
    assert _trusted("remote:ws://a:1,ws://b:1") == "remote:ws://a:1,ws://b:1"
    assert _trusted("remote:ws://a:1,ws://c:1") == "remote:ws://a:1,ws://c:1,token=withheld"
