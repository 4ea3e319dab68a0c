import json
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from rpd.core.statistics import wilson
from rpd.envs.errors import ConfigError, NonFiniteError, RunFault
from rpd.envs.specs import ObsSpec
from rpd.evaluation.evaluate import EpisodeRecord, EvalResult, compare, evaluate, save
from rpd.policies.builtin import StudentPolicy, ZeroPolicy
from rpd.policies.loading import load_policy
from rpd.runs.progress import ProgressLog
from rpd.students.actor_critic import ActorCritic
from rpd.students.config import StudentConfig
from tests.fakes import FakeEnv, fake_spec

SPEC = fake_spec(observations={"state": ObsSpec(shape=(1,), dtype="float32")}, state_names=("seed",))


class SeedEnv(FakeEnv):
    """An even seed s is solved at step s % 3 + 1; an odd one is truncated after 4 steps, unless `endless`."""

    def __init__(self, num_envs, endless=False):
        super().__init__(num_envs, SPEC)
        self.limit = 10**9 if endless else self.limit

    def solved(self, action):
        return (self.seeds % 2 == 0) & (self.t == self.seeds % 3 + 1)

    def observe(self):
        return TensorDict({"state": self.seeds[:, None].float()}, batch_size=[self.num_envs])


class Remembering(ZeroPolicy):
    """Notes what it is told to forget."""

    def __init__(self):
        super().__init__(2)
        self.forgotten = []

    def reset(self, mask):
        self.forgotten.append(mask.tolist())


def result(successes, seed=0, policy="a", task="t"):
    return EvalResult(
        task, policy, tuple(EpisodeRecord(seed + i, bool(s), bool(s), float(s), 3) for i, s in enumerate(successes))
    )


@pytest.mark.parametrize("num_envs", [1, 3, 7, 16])
def test_each_seed_counts_once_for_any_batch_size(num_envs):
    got = evaluate(SeedEnv(num_envs), ZeroPolicy(2), episodes=7, seed=100)
    assert [e.seed for e in got.episodes] == list(range(100, 107))
    assert [e.success_once for e in got.episodes] == [True, False] * 3 + [True]
    assert [e.length for e in got.episodes] == [2, 4, 1, 4, 3, 4, 2]  # 100 % 3 + 1 = 2, time out, 102 % 3 + 1 = 1, ...
    assert (got.successes, got.n, got.rate) == (4, 7, 4 / 7)
    assert got.interval == wilson(4, 7)
    assert got.mean_return == 4 / 7 and got.mean_length == 20 / 7
    hz = SeedEnv(1).spec.control_hz
    assert got.travel_time == 2 / hz  # of the solved: (2 + 1 + 3 + 2) / 4
    assert got.weighted_travel_time == pytest.approx(8 / hz / got.rate)
    assert EvalResult.from_full_dict(got.to_full_dict()) == got
    assert result([0, 0]).travel_time is None and result([0, 0]).weighted_travel_time is None
    assert got.metrics()["eval/success_once"] == 4 / 7 and got.metrics()["eval/success_once_lo"] == wilson(4, 7)[0]


def test_progress_is_printed_for_long_evaluations_only(monkeypatch, capsys):
    evaluate(SeedEnv(2), ZeroPolicy(2), 4, 0)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(ProgressLog, "every_s", 0.0)
    evaluate(SeedEnv(2), ZeroPolicy(2), 4, 0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0].split(": ")[1] for line in (lines[0], lines[-1])] == ["1 of 4 episodes", "4 of 4 episodes"]
    assert all(line.startswith("evaluating zero on fake/Task: ") and "at most 0:00:0" in line for line in lines)


def test_memory_is_reset_at_the_start_and_where_episodes_end():
    policy = Remembering()
    evaluate(SeedEnv(2), policy, episodes=2, seed=0)  # seed 0 ends at step 1, 2 (again, as seed 1000: 1000 % 3 + 1 = 2)...
    assert policy.forgotten[0] == [True, True]
    assert policy.forgotten[1] == [True, False]
    assert policy.forgotten[-1][1] is True


def test_frames_come_from_the_first_batch_only():
    frames = []
    evaluate(
        SeedEnv(2),
        ZeroPolicy(2),
        4,
        0,
        on_frame=lambda env, running, success: frames.append((running.tolist(), success.tolist())),
    )
    assert frames == [
        ([True, True], [False, False]),
        ([False, True], [True, False]),
        ([False, True], [True, False]),
        ([False, True], [True, False]),
        ([False, False], [True, False]),
    ]


def test_trouble_is_named():
    class Broken(ZeroPolicy):
        name = "broken"

        def act(self, obs, instructions):
            return torch.tensor([[0.0, 0.0], [float("nan"), 0.0]])

    with pytest.raises(NonFiniteError, match=r"policy broken: action of environment 1: x = nan"):
        evaluate(SeedEnv(2), Broken(2), 2, 0)
    with pytest.raises(RunFault, match="environment 1 did not end an episode in 4 steps"):
        evaluate(SeedEnv(2, endless=True), ZeroPolicy(2), 2, 0)
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(SeedEnv(2), ZeroPolicy(2), 0, 0)


def test_compare_pairs_by_seed():
    got = compare(result([1, 1, 1, 0]), result([0, 1, 0, 1]))
    assert (got.n, got.wins, got.losses, got.diff) == (4, 2, 1, 0.25)
    with pytest.raises(ConfigError, match=r"a has 2 seeds 0\.\.1, b has 2 seeds 5\.\.6"):
        compare(result([1, 1]), result([1, 1], seed=5, policy="b"))
    with pytest.raises(ConfigError, match="different tasks"):
        compare(result([1]), result([1], task="u"))
    costly, free = (replace(result([1]), options={"limits": "none", "limit_cost": cost}) for cost in (0.1, 0.0))
    assert compare(costly, free).diff == 0  # a cost changes the return alone
    with pytest.raises(ConfigError, match="different episodes"):
        compare(costly, replace(free, options={"limits": "published"}))


def test_saved_files_record_results_and_environment(tmp_path):
    save(result([1, 0, 1, 1], seed=9), tmp_path / "eval" / "final")
    summary = json.loads((tmp_path / "eval" / "final" / "eval.json").read_text())
    assert summary["schema_version"] == 1
    assert (summary["task"], summary["policy"], summary["successes"], summary["n"]) == ("t", "a", 3, 4)
    assert (summary["successes_at_end"], summary["first_seed"]) == (3, 9)
    assert summary["interval"] == list(wilson(3, 4))
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or summary["versions"]["torch"] == torch.__version__
    assert summary["machine"]["cores"] >= 1 and set(summary) >= {"git", "time"}
    lines = [json.loads(line) for line in (tmp_path / "eval" / "final" / "episodes.jsonl").read_text().splitlines()]
    assert lines[1] == {
        "seed": 10, "success_once": False, "success_at_end": False, "ret": 0.0, "length": 3, "seconds": None, "violated": None,
        "limited": None,
    }  # fmt: skip


def test_result_round_trips_through_json():
    whole = result([1, 0], seed=9)
    assert EvalResult.from_full_dict(json.loads(json.dumps(whole.to_full_dict()))) == whole


def test_policies_by_name(tmp_path):
    env = SeedEnv(3)
    obs = env.reset(0)
    assert load_policy("zero", env).act(obs, env.instructions).tolist() == [[0, 0]] * 3
    policy = load_policy("random", env)
    actions = []
    for seed in (4, 4, 5):
        policy.seed(seed)
        actions.append(policy.act(obs, env.instructions))
    assert policy.name == "random" and actions[0].shape == (3, 2) and actions[0].abs().max() <= 1
    assert torch.equal(actions[0], actions[1]) and not torch.equal(actions[0], actions[2])
    with pytest.raises(ConfigError, match="unknown policy 'rando': did you mean random"):
        load_policy("rando", env)
    with pytest.raises(ConfigError, match="unknown policy"):
        load_policy("nobody", env)


def test_saved_student_acts_by_its_path_and_only_where_it_fits(tmp_path):
    pytest.importorskip("rpd.runs.checkpoint")
    student = ActorCritic(SPEC, StudentConfig(hidden_dims=(8,)))
    student.save_pretrained(tmp_path / "policy")
    env = SeedEnv(3)
    policy = load_policy(str(tmp_path / "policy"), env)
    obs = env.reset(0)
    assert isinstance(policy, StudentPolicy) and policy.name == str(tmp_path / "policy")
    assert torch.equal(policy.act(obs, env.instructions), student.act(obs, deterministic=True))
    env.spec = SPEC.model_copy(update={"control_hz": 50.0})
    with pytest.raises(ConfigError, match=r"20 Hz.*50 Hz"):
        load_policy(str(tmp_path / "policy"), env)


def test_violations_and_limited_commands_are_summed_up():
    episodes = tuple(EpisodeRecord(i, True, True, 0.0, 3, None, violated=i == 1, limited=i / 4) for i in range(4))
    result = EvalResult("tabletop/Reach", "p", episodes)
    assert (result.violations, result.limited) == (1, 0.375)
    assert result.metrics()["eval/violations"] == 0.25 and result.metrics()["eval/limited"] == 0.375
    bare = EvalResult("tabletop/Reach", "p", (EpisodeRecord(0, True, True, 0.0, 3),))
    assert bare.violations is None and bare.limited is None and "eval/violations" not in bare.metrics()
