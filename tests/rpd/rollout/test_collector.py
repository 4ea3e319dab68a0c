import threading

import pytest
import torch
from tensordict import TensorDict

from envs.base import Episodes, Step, VectorEnv
from envs.errors import ConfigError, NonFiniteError
from envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.rollout import Collector, EpisodeStats
from students.actor_critic import ActorCritic
from students.config import StudentConfig
from teachers.base import Teacher, TeacherOutput

N, T, LIMIT = 4, 5, 3
SPEC = EnvSpec(
    task="fake/Count",
    embodiment=Embodiment(name="dot", num_joints=1, descriptor={}),
    observations={"state": ObsSpec(shape=(2,), dtype="float32")},
    state_names=("env", "step"),
    action=ActionSpec(names=("x", "grip"), units=("m", ""), scale=(0.1, 1.0), discrete=(False, True)),
    control_hz=20,
    max_episode_steps=LIMIT,
    reward="dense",
)
nan, inf = float("nan"), float("inf")


class CountEnv(VectorEnv):
    """Observes (environment, steps since reset). Environment 0 succeeds after 2 steps, the others time out after 3."""

    num_envs, device, spec = N, torch.device("cpu"), SPEC

    def __init__(self):
        self.steps = 0
        self.broken = {}  # at which step to return what: {step: {"reward": ..., "obs": ...}}

    @property
    def instructions(self):
        return [f"do {i}" for i in range(N)]

    def reset(self, seed, stagger=False):
        self.count = torch.zeros(N, dtype=torch.int64)
        return self._obs()

    def step(self, action):
        if not action.isfinite().all():
            raise NonFiniteError("policy", "action of environment 0")
        self.steps += 1
        self.count += 1
        solved = (self.count == 2) & (torch.arange(N) == 0)
        late = self.count == LIMIT
        ended = (solved | late).nonzero()[:, 0]
        episode = final = None
        if len(ended):
            length = self.count[ended].clone()
            episode = Episodes(ended, -length.float(), length, solved[ended], solved[ended], ended)
            final = self._obs()[ended]
            self.count[ended] = 0
        reward, obs, broken = torch.full((N,), float(self.steps)), self._obs(), self.broken.get(self.steps, {})
        if "reward" in broken:
            reward[2] = broken["reward"]
        if "obs" in broken:
            obs["state"][3, 1] = broken["obs"]
        if "final" in broken and final is not None:
            final["state"][0] = broken["final"]
        return Step(obs, reward, solved, late, final, episode)

    def _obs(self):
        return TensorDict({"state": torch.stack([torch.arange(N), self.count], 1).float()}, batch_size=[N])

    def look(self, envs=None):
        view = (10 * torch.arange(N) + self.count).to(torch.uint8)
        return {"view.eye": view if envs is None else view[envs]}

    def render(self, envs=None, size=256):
        raise NotImplementedError

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        return self._obs()

    def close(self):
        pass


class Counting(Teacher):
    """Says 0.5 and remembers what it was asked."""

    name, provides = "counting", frozenset({"mean"})

    def __init__(self, elsewhere=False):
        self.asked, self.forgotten, self.says, self.elsewhere = [], [], 0.5, elsewhere

    def check_env(self, spec):
        pass

    def label(self, obs, instructions, student_action=None):
        assert len(instructions) == len(obs["state"]) == len(student_action)
        assert [int(i) for i in obs["state"][:, 0]] == [int(s.split()[1]) for s in instructions]
        self.asked.append(obs["state"].clone())
        return TeacherOutput(torch.full((len(instructions), 2), self.says), torch.ones(len(instructions), dtype=torch.bool))

    def reset(self, mask):
        self.forgotten.append(mask.tolist())


def collector(teacher=None, fraction=1.0, explore=True):
    torch.manual_seed(0)
    policy = ActorCritic(SPEC, StudentConfig(hidden=(8,)))
    made = Collector(CountEnv(), policy, teacher, T, fraction, torch.Generator().manual_seed(0), explore)
    made.obs = made.env.reset(0)
    policy.observe(made.obs)
    return made


def test_batch_holds_what_happened():
    made = collector()
    batch, last_value = made.collect(label=False)
    assert batch.batch_size == (T, N)
    assert batch["reward"].tolist() == [[float(t)] * N for t in range(1, T + 1)]
    assert batch["obs", "state"][:, 0, 1].tolist() == [0, 1, 0, 1, 0]  # solved after two steps, and on
    assert batch["obs", "state"][:, 1, 1].tolist() == [0, 1, 2, 0, 1]
    assert batch["terminated"][:, 0].tolist() == [False, True, False, True, False]
    assert batch["truncated"][:, 1].tolist() == [False, False, True, False, False]
    # the batch's values and log-probabilities are those of the policy on the stored observations
    distribution, value = made.policy(batch["obs"].flatten())
    assert torch.allclose(batch["value"].flatten(), value, atol=1e-6)
    assert torch.allclose(batch["log_prob"].flatten(), distribution.log_prob(batch["action"].flatten(0, 1)), atol=1e-6)
    assert torch.equal(last_value, made.policy.value(made.obs).detach())
    assert not any("teacher" in str(k) for k in batch.keys())  # noqa: SIM118


def test_final_value_is_that_of_the_true_last_observation():
    made = collector()
    batch, _ = made.collect(label=False)
    expected = made.policy.value({"state": torch.tensor([[1.0, 3.0], [2.0, 3.0], [3.0, 3.0]])})  # not the new episode's 0
    assert torch.allclose(batch["final_value"][2, 1:], expected, atol=1e-6)
    assert (batch["final_value"][[0, 4]] == 0).all() and (batch["final_value"][2, 0] == 0).all()


def test_normaliser_rests_while_collecting():
    made = collector()
    before = {k: v.clone() for k, v in made.policy.state_dict().items()}
    made.collect(label=False)
    assert all(torch.equal(v, before[k]) for k, v in made.policy.state_dict().items())


def test_batch_is_allocated_once():
    made = collector(Counting())
    first = made.collect(label=True)[0]["obs", "state"].data_ptr()
    assert made.collect(label=True)[0]["obs", "state"].data_ptr() == first
    assert "teacher.mean" not in made.collect(label=False)[0]  # labels that are not asked any more do not linger


@pytest.mark.parametrize("elsewhere", [False, True])
def test_every_observation_is_labelled_once(elsewhere):
    teacher = Counting(elsewhere)
    made = collector(teacher)
    batch, _ = made.collect(label=True)
    assert torch.equal(torch.stack(teacher.asked), batch["obs", "state"])
    assert made.queries == T * N and batch["teacher.valid"].all() and (batch["teacher.mean"] == 0.5).all()
    assert teacher.forgotten == [[True, False, False, False], [False, True, True, True], [True, False, False, False]]
    made.collect(label=False)
    assert made.queries == T * N and len(teacher.asked) == T


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_only_what_the_run_reads_is_stored(fraction):
    class Talkative(Counting):
        provides = frozenset({"mean", "std", "log_prob"})

        def label(self, obs, instructions, student_action=None):
            answer = super().label(obs, instructions, student_action)
            answer.std, answer.log_prob = answer.mean * nan, student_action[:, 0]
            return answer

    teacher = Talkative()
    assert teacher.wanted == teacher.provides
    teacher.wanted = frozenset({"log_prob"})
    batch, _ = collector(teacher, fraction).collect(label=True)  # and what nobody reads may be NaN
    assert {k for k in batch.keys() if k.startswith("teacher.")} == {"teacher.valid", "teacher.log_prob"}  # noqa: SIM118
    valid = batch["teacher.valid"]
    assert torch.equal(batch["teacher.log_prob"][valid], batch["action"][..., 0][valid])  # of the very action


def test_a_teacher_elsewhere_thinks_while_the_simulator_steps():
    """Its answer to each question but the last is held back until the environment has moved on."""
    teacher, stepped = Counting(elsewhere=True), threading.Semaphore(0)
    made = collector(teacher)
    label, step = teacher.label, made.env.step
    teacher.label = lambda *args: (stepped.acquire(timeout=30), label(*args))[1]
    made.env.step = lambda action: (step(action), stepped.release())[0]
    batch, _ = made.collect(label=True)
    assert torch.equal(torch.stack(teacher.asked), batch["obs", "state"]) and (batch["teacher.mean"] == 0.5).all()
    assert teacher.forgotten == [[True, False, False, False], [False, True, True, True], [True, False, False, False]]


@pytest.mark.parametrize("what", ["label", "reset"])
def test_what_goes_wrong_elsewhere_is_raised_here(what):
    teacher = Counting(elsewhere=True)

    def fail(*_):
        raise ConfigError("gone")

    setattr(teacher, what, fail)
    with pytest.raises(ConfigError, match="gone"):
        collector(teacher).collect(label=True)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize(("fraction", "per_step"), [(0.5, [2] * 5), (0.3, [1, 1, 1, 1, 2]), (0.75, [3] * 5)])
def test_label_fraction_is_exact(fraction, per_step, elsewhere):
    teacher = Counting(elsewhere)
    made = collector(teacher, fraction)
    batch, _ = made.collect(label=True)
    assert [len(asked) for asked in teacher.asked] == per_step  # 0.3 * 4 = 1.2: what is owed is asked later
    assert made.queries == batch["teacher.valid"].sum() == sum(per_step) == round(T * N * fraction)
    valid = batch["teacher.valid"]
    assert (batch["teacher.mean"][valid] == 0.5).all() and (batch["teacher.mean"][~valid] == 0).all()
    assert torch.equal(batch["obs", "state"][valid], torch.cat(teacher.asked))


def test_fraction_below_one_label_per_step():
    with pytest.raises(ConfigError, match=r"label_fraction 0\.2 of 4 environments.*at least 0\.25"):
        collector(Counting(), 0.2)


def test_who_remembers_rows_is_asked_about_all():
    teacher = Counting()
    teacher.wants_all = True
    collector(teacher).collect(label=True)
    with pytest.raises(ConfigError, match=r"label_fraction 0\.5: teacher counting remembers what each environment showed"):
        collector(teacher, 0.5)


def test_without_exploration_the_mode_acts():
    made = collector(explore=False)
    batch, _ = made.collect(label=False)
    assert torch.allclose(batch["action"].flatten(0, 1), made.policy.distribution(batch["obs"].flatten()).mode(), atol=1e-6)


def test_episode_stats_are_a_running_mean():
    stats = EpisodeStats(decay=0.9)
    one = torch.ones(1)
    stats.add(Episodes(one.long(), 10 * one, 5 * one.long(), one.bool(), one.bool(), one.long()))
    assert stats.means == {"success": 1.0, "return": 10.0, "length": 5.0}
    stats.add(Episodes(one.long(), 20 * one, 5 * one.long(), ~one.bool(), one.bool(), one.long()))
    assert stats.means == pytest.approx({"success": 0.9, "return": 11.0, "length": 5.0})


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize(
    ("broken", "match"),
    [
        ({2: {"reward": ...}}, r"from the environment: reward of environment 2, step 2 of the batch"),
        ({2: {"obs": ...}}, r"from the environment: obs\.state of environment 3, step 3 of the batch"),
        ({T: {"obs": ...}}, r"from the environment: obs\.state of environment 3, step 1 of the batch"),  # the one after
    ],
)
def test_environment_is_named(broken, match, value):
    made = collector()
    made.env.broken = {step: dict.fromkeys(fields, value) for step, fields in broken.items()}
    with pytest.raises(NonFiniteError, match=match) as caught:
        made.collect(label=False)
    assert caught.value.source == "environment"


def test_final_observation_is_the_environments():
    made = collector()
    made.env.broken = {3: {"final": nan}}
    with pytest.raises(NonFiniteError, match=r"environment: final_value of environment 1, step 3"):
        made.collect(label=False)


def test_teacher_is_named():
    teacher = Counting()
    made = collector(teacher)
    teacher.says = nan
    with pytest.raises(NonFiniteError, match=r"from the teacher: teacher\.mean of environment 0, 1, 2, 3, step 1"):
        made.collect(label=True)


def test_rows_that_are_not_valid_may_hold_anything():
    class Silent(Counting):
        def label(self, obs, instructions, student_action=None):
            return TeacherOutput(torch.full((N, 2), nan), torch.zeros(N, dtype=torch.bool))

    collector(Silent()).collect(label=True)


def test_policy_is_named_and_the_batch_keeps_what_it_did():
    made = collector()
    with torch.no_grad():
        next(made.policy.actor.parameters()).fill_(nan)
    with pytest.raises(NonFiniteError, match=r"from the policy: .*action.*, step 1 of the batch"):
        made.collect(label=False)
    assert made.filled == 1 and made.batch["action"][0].isnan().any()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_teacher_that_looks_sees_what_the_student_does_not(fraction):
    teacher = Counting()
    teacher.looks = True
    seen = []
    label = teacher.label
    teacher.label = lambda obs, *rest: (seen.append(obs), label(obs, *rest))[1]
    batch, _ = collector(teacher, fraction).collect(label=True)
    for obs in seen:
        assert obs["view.eye"].tolist() == (10 * obs["state"][:, 0] + obs["state"][:, 1]).tolist()
    assert len(seen) == T and set(batch["obs"].keys()) == {"state"}
