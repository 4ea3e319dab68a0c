import threading

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError, NonFiniteError
from rpd.rollout.collector import Collector, EpisodeStats
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from rpd.teachers.base import Teacher, TeacherOutput
from tests.fakes import FakeEnv, fake_spec

N, T, LIMIT = 4, 5, 3
SPEC = fake_spec(state_names=("env", "step"), max_episode_steps=LIMIT, reward="dense")
nan, inf = float("nan"), float("inf")


class CountEnv(FakeEnv):
    """Observes (environment, steps since reset). Environment 0 succeeds after 2 steps, the others time out after 3."""

    def __init__(self):
        super().__init__(N, SPEC)
        self.steps = 0
        self.broken = {}  # at which step to return what: {step: {"reward": ..., "obs": ...}}

    def solved(self, action):
        return (self.t == 2) & (torch.arange(N) == 0)

    def reward(self, solved):
        return torch.full((N,), float(self.steps))

    def observe(self):
        return TensorDict({"state": torch.stack([torch.arange(N), self.t], 1).float()}, batch_size=[N])

    def step(self, action):
        if not action.isfinite().all():
            raise NonFiniteError("policy", "action of environment 0")
        self.steps += 1
        out, broken = super().step(action), self.broken.get(self.steps, {})
        if "reward" in broken:
            out.reward[2] = broken["reward"]
        if "obs" in broken:
            out.obs["state"][3, 1] = broken["obs"]
        if "final" in broken and out.final_obs is not None:
            out.final_obs["state"][0] = broken["final"]
        return out

    def teacher_images(self, envs=None):
        view = (10 * torch.arange(N) + self.t).to(torch.uint8)
        return {"view.eye": view if envs is None else view[envs]}


class Counting(Teacher):
    """Says 0.5 and remembers what it was asked."""

    name, output_fields = "counting", frozenset({"mean"})

    def __init__(self, runs_remotely=False):
        self.asked, self.forgotten, self.says, self.runs_remotely = [], [], 0.5, runs_remotely

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
    policy = ActorCritic(SPEC, StudentConfig(hidden_dims=(8,)))
    made = Collector(CountEnv(), policy, teacher, T, fraction, torch.Generator().manual_seed(0), explore)
    made.obs = made.env.reset(0)
    policy.update_normalization(made.obs)
    return made


def test_batch_contains_the_rollout():
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
    assert "teacher" not in set(made.collect(label=False)[0].keys())  # labels that are not asked any more do not linger


@pytest.mark.parametrize("runs_remotely", [False, True])
def test_every_observation_is_labelled_once(runs_remotely):
    teacher = Counting(runs_remotely)
    made = collector(teacher)
    batch, _ = made.collect(label=True)
    assert torch.equal(torch.stack(teacher.asked), batch["obs", "state"])
    assert made.queries == T * N and batch["teacher", "valid"].all() and (batch["teacher", "mean"] == 0.5).all()
    assert teacher.forgotten == [[True, False, False, False], [False, True, True, True], [True, False, False, False]]
    made.collect(label=False)
    assert made.queries == T * N and len(teacher.asked) == T


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_only_requested_teacher_fields_are_stored(fraction):
    class Talkative(Counting):
        output_fields = frozenset({"mean", "std", "log_prob"})

        def label(self, obs, instructions, student_action=None):
            answer = super().label(obs, instructions, student_action)
            answer.std, answer.log_prob = answer.mean * nan, student_action[:, 0]
            return answer

    teacher = Talkative()
    assert teacher.requested_fields == teacher.output_fields
    teacher.requested_fields = frozenset({"log_prob"})
    batch, _ = collector(teacher, fraction).collect(label=True)  # and what nobody reads may be NaN
    assert set(batch["teacher"].keys()) == {"valid", "log_prob"}
    valid = batch["teacher", "valid"]
    assert torch.equal(batch["teacher", "log_prob"][valid], batch["action"][..., 0][valid])  # of the very action


def test_remote_teacher_runs_in_parallel_with_the_simulator():
    """Its answer to each question but the last is held back until the environment has moved on."""
    teacher, stepped = Counting(runs_remotely=True), threading.Semaphore(0)
    made = collector(teacher)
    label, step = teacher.label, made.env.step
    teacher.label = lambda *args: (stepped.acquire(timeout=30), label(*args))[1]
    made.env.step = lambda action: (step(action), stepped.release())[0]
    batch, _ = made.collect(label=True)
    assert torch.equal(torch.stack(teacher.asked), batch["obs", "state"]) and (batch["teacher", "mean"] == 0.5).all()
    assert teacher.forgotten == [[True, False, False, False], [False, True, True, True], [True, False, False, False]]


@pytest.mark.parametrize("what", ["label", "reset"])
def test_error_in_teacher_thread_is_raised(what):
    teacher = Counting(runs_remotely=True)

    def fail(*_):
        raise ConfigError("gone")

    setattr(teacher, what, fail)
    with pytest.raises(ConfigError, match="gone"):
        collector(teacher).collect(label=True)


@pytest.mark.parametrize("runs_remotely", [False, True])
@pytest.mark.parametrize(("fraction", "per_step"), [(0.5, [2] * 5), (0.3, [1, 1, 1, 1, 2]), (0.75, [3] * 5)])
def test_label_fraction_is_exact(fraction, per_step, runs_remotely):
    teacher = Counting(runs_remotely)
    made = collector(teacher, fraction)
    batch, _ = made.collect(label=True)
    assert [len(asked) for asked in teacher.asked] == per_step  # 0.3 * 4 = 1.2: what is owed is asked later
    assert made.queries == batch["teacher", "valid"].sum() == sum(per_step) == round(T * N * fraction)
    valid = batch["teacher", "valid"]
    assert (batch["teacher", "mean"][valid] == 0.5).all() and (batch["teacher", "mean"][~valid] == 0).all()
    assert torch.equal(batch["obs", "state"][valid], torch.cat(teacher.asked))


def test_fraction_below_one_label_per_step():
    with pytest.raises(ConfigError, match=r"label_fraction 0\.2 of 4 environments.*at least 0\.25"):
        collector(Counting(), 0.2)


def test_stateful_teacher_requires_full_label_fraction():
    teacher = Counting()
    teacher.is_stateful = True
    collector(teacher).collect(label=True)
    with pytest.raises(ConfigError, match=r"label_fraction 0\.5: teacher counting is stateful"):
        collector(teacher, 0.5)


def test_without_exploration_the_mode_acts():
    made = collector(explore=False)
    batch, _ = made.collect(label=False)
    assert torch.allclose(batch["action"].flatten(0, 1), made.policy.distribution(batch["obs"].flatten()).mode(), atol=1e-6)


def test_episode_stats_are_a_running_mean():
    stats = EpisodeStats(decay=0.9)
    stats.add(1.0, 10.0, 5.0)
    assert stats.means == {"success": 1.0, "ep_return": 10.0, "ep_length": 5.0}
    stats.add(0.0, 20.0, 5.0)
    assert stats.means == pytest.approx({"success": 0.9, "ep_return": 11.0, "ep_length": 5.0})


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
    with pytest.raises(NonFiniteError, match=r"from the teacher counting: teacher\.mean of environment 0, 1, 2, 3, step 1"):
        made.collect(label=True)


def test_invalid_rows_are_ignored():
    class Silent(Counting):
        def label(self, obs, instructions, student_action=None):
            return TeacherOutput(torch.full((N, 2), nan), torch.zeros(N, dtype=torch.bool))

    collector(Silent()).collect(label=True)


def test_non_finite_policy_is_named_and_batch_is_kept():
    made = collector()
    with torch.no_grad():
        next(made.policy.actor.parameters()).fill_(nan)
    with pytest.raises(NonFiniteError, match=r"from the policy: .*action.*, step 1 of the batch"):
        made.collect(label=False)
    assert made.filled == 1 and made.batch["action"][0].isnan().any()


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_teacher_images_are_passed_to_teacher_only(fraction):
    teacher = Counting()
    teacher.needs_teacher_images = True
    seen = []
    label = teacher.label
    teacher.label = lambda obs, *rest: (seen.append(obs), label(obs, *rest))[1]
    batch, _ = collector(teacher, fraction).collect(label=True)
    for obs in seen:
        assert obs["view.eye"].tolist() == (10 * obs["state"][:, 0] + obs["state"][:, 1]).tolist()
    assert len(seen) == T and set(batch["obs"].keys()) == {"state"}
