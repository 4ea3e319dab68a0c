import json

import pytest
import torch
from tensordict import TensorDict

from envs.base import Episodes, Step, VectorEnv
from envs.errors import ConfigError, NonFiniteError, RunFault
from envs.specs import ActionSpec, Embodiment, EnvSpec, ObsSpec
from rpd.evaluate import EpisodeRecord, EvalResult, compare, evaluate, save
from rpd.policies import StudentPolicy, ZeroPolicy, resolve
from rpd.progress import Patience
from rpd.stats import wilson
from students.actor_critic import ActorCritic
from students.config import StudentConfig

SPEC = EnvSpec(
    task="fake/Task",
    embodiment=Embodiment(name="dot", num_joints=1, descriptor={}),
    observations={"state": ObsSpec(shape=(1,), dtype="float32")},
    state_names=("seed",),
    action=ActionSpec(names=("x", "grip"), units=("m", ""), scale=(0.1, 1.0), discrete=(False, True)),
    control_hz=20,
    max_episode_steps=4,
    reward="sparse",
)


class FakeEnv(VectorEnv):
    """An even seed s is solved at step s % 3 + 1; an odd one runs out after 4 steps. Later episodes: seed + 1000."""

    def __init__(self, num_envs, endless=False):
        self.num_envs, self.device, self.spec, self.endless = num_envs, torch.device("cpu"), SPEC, endless

    @property
    def instructions(self):
        return ["go"] * self.num_envs

    def reset(self, seed):
        self.seeds = torch.arange(seed, seed + self.num_envs)
        self.t = torch.zeros(self.num_envs, dtype=torch.int64)
        return self._obs()

    def step(self, action):
        self.t += 1
        solved = (self.seeds % 2 == 0) & (self.t == self.seeds % 3 + 1)
        late = (self.t == 4) & ~solved & (not self.endless)
        rows = (solved | late).nonzero()[:, 0]
        episode = final = None
        if len(rows):
            episode = Episodes(rows, solved[rows].float(), self.t[rows], solved[rows], solved[rows], self.seeds[rows])
            final = self._obs()[rows]
            self.seeds[rows] += 1000
            self.t[rows] = 0
        return Step(self._obs(), solved.float(), solved, late, final, episode)

    def _obs(self):
        return TensorDict({"state": self.seeds[:, None].float()}, batch_size=[self.num_envs])

    def render(self, envs=None, size=256):
        return torch.zeros(len(envs), size, size, 3, dtype=torch.uint8)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        return self._obs()

    def close(self):
        pass


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
def test_every_seed_counts_once_whatever_the_batch(num_envs):
    got = evaluate(FakeEnv(num_envs), ZeroPolicy(2), episodes=7, seed=100)
    assert [e.seed for e in got.episodes] == list(range(100, 107))
    assert [e.success_once for e in got.episodes] == [True, False] * 3 + [True]
    assert [e.length for e in got.episodes] == [2, 4, 1, 4, 3, 4, 2]  # 100 % 3 + 1 = 2, time out, 102 % 3 + 1 = 1, ...
    assert (got.successes, got.n, got.rate) == (4, 7, 4 / 7)
    assert got.interval == wilson(4, 7)
    assert got.mean_return == 4 / 7 and got.mean_length == 20 / 7
    hz = FakeEnv(1).spec.control_hz
    assert got.travel_time == 2 / hz  # of the solved: (2 + 1 + 3 + 2) / 4
    assert got.weighted_travel_time == pytest.approx(8 / hz / got.rate)
    assert EvalResult.from_full_dict(got.to_full_dict()) == got
    assert result([0, 0]).travel_time is None and result([0, 0]).weighted_travel_time is None
    assert got.metrics()["eval/success"] == 4 / 7 and got.metrics()["eval/success_lo"] == wilson(4, 7)[0]


def test_a_long_evaluation_says_how_far_it_is_and_a_quick_one_nothing(monkeypatch, capsys):
    evaluate(FakeEnv(2), ZeroPolicy(2), 4, 0)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(Patience, "every_s", 0.0)
    evaluate(FakeEnv(2), ZeroPolicy(2), 4, 0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0].split(": ")[1] for line in (lines[0], lines[-1])] == ["1 of 4 episodes", "4 of 4 episodes"]
    assert all(line.startswith("evaluating zero on fake/Task: ") and "at most 0:00:0" in line for line in lines)


def test_memory_is_reset_at_the_start_and_where_episodes_end():
    policy = Remembering()
    evaluate(FakeEnv(2), policy, episodes=2, seed=0)  # seed 0 ends at step 1, 2 (again, as seed 1000: 1000 % 3 + 1 = 2)...
    assert policy.forgotten[0] == [True, True]
    assert policy.forgotten[1] == [True, False]
    assert policy.forgotten[-1][1] is True


def test_frames_come_from_the_first_batch_only():
    frames = []
    evaluate(
        FakeEnv(2),
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

    with pytest.raises(NonFiniteError, match=r"policy broken: action of environment 1$"):
        evaluate(FakeEnv(2), Broken(2), 2, 0)
    with pytest.raises(RunFault, match="environment 1 did not end an episode in 4 steps"):
        evaluate(FakeEnv(2, endless=True), ZeroPolicy(2), 2, 0)
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(FakeEnv(2), ZeroPolicy(2), 0, 0)


def test_compare_pairs_by_seed():
    got = compare(result([1, 1, 1, 0]), result([0, 1, 0, 1]))
    assert (got.n, got.wins, got.losses, got.diff) == (4, 2, 1, 0.25)
    with pytest.raises(ConfigError, match=r"a has 2 seeds 0\.\.1, b has 2 seeds 5\.\.6"):
        compare(result([1, 1]), result([1, 1], seed=5, policy="b"))
    with pytest.raises(ConfigError, match="different tasks"):
        compare(result([1]), result([1], task="u"))


def test_saved_files_say_what_was_measured_and_where(tmp_path):
    save(result([1, 0, 1, 1], seed=9), tmp_path / "eval" / "final")
    summary = json.loads((tmp_path / "eval" / "final" / "eval.json").read_text())
    assert summary["schema_version"] == 1
    assert (summary["task"], summary["policy"], summary["successes"], summary["n"]) == ("t", "a", 3, 4)
    assert (summary["successes_at_end"], summary["first_seed"]) == (3, 9)
    assert summary["interval"] == list(wilson(3, 4))
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or summary["versions"]["torch"] == torch.__version__
    assert summary["machine"]["cores"] >= 1 and set(summary) >= {"git", "time"}
    lines = [json.loads(line) for line in (tmp_path / "eval" / "final" / "episodes.jsonl").read_text().splitlines()]
    assert lines[1] == {"seed": 10, "success_once": False, "success_at_end": False, "ret": 0.0, "length": 3, "seconds": None}


def test_a_result_survives_json():
    whole = result([1, 0], seed=9)
    assert EvalResult.from_full_dict(json.loads(json.dumps(whole.to_full_dict()))) == whole


def test_policies_by_name(tmp_path):
    env = FakeEnv(3)
    obs = env.reset(0)
    assert resolve("zero", env).act(obs, env.instructions).tolist() == [[0, 0]] * 3
    policy = resolve("random", env)
    actions = []
    for seed in (4, 4, 5):
        policy.seed(seed)
        actions.append(policy.act(obs, env.instructions))
    assert policy.name == "random" and actions[0].shape == (3, 2) and actions[0].abs().max() <= 1
    assert torch.equal(actions[0], actions[1]) and not torch.equal(actions[0], actions[2])
    with pytest.raises(ConfigError, match="unknown policy 'rando': did you mean random"):
        resolve("rando", env)
    with pytest.raises(ConfigError, match="unknown teacher"):
        resolve("teacher:nobody", env)


def test_a_saved_student_acts_by_its_path_and_only_where_it_fits(tmp_path):
    pytest.importorskip("rpd.checkpoint")
    student = ActorCritic(SPEC, StudentConfig(hidden=(8,)))
    student.save_pretrained(tmp_path / "policy")
    env = FakeEnv(3)
    policy = resolve(str(tmp_path / "policy"), env)
    obs = env.reset(0)
    assert isinstance(policy, StudentPolicy) and policy.name == str(tmp_path / "policy")
    assert torch.equal(policy.act(obs, env.instructions), student.act(obs, deterministic=True))
    env.spec = SPEC.model_copy(update={"control_hz": 50.0})
    with pytest.raises(ConfigError, match=r"20 Hz.*50 Hz"):
        resolve(str(tmp_path / "policy"), env)
