"""Samplers: which levels they stop at, what they remember, what they forget."""

import pytest
import torch
from tensordict import TensorDict

from rpd.envs.errors import ConfigError
from rpd.students.diffusion import samplers
from rpd.students.diffusion.actor import DiffusionActor
from rpd.students.diffusion.samplers.base import ChunkMemory, even_levels, shift

EVERY = [
    "ddpm",
    "ddim:steps=4",
    "rti:timesteps=3",
    "rti:timesteps=auto",
    "rtc:steps=4,n_action_steps=1,delay=1",
    "streaming:n_action_steps=1,steps=2",
]


def obs(n, value=0.0):
    return TensorDict({"state": torch.full((n, 2), value)}, batch_size=[n])


def act(actor, n, value=0.0):
    return actor.act(obs(n, value), [""] * n)


def test_shift_drops_executed_actions_and_repeats_the_last():
    chunk = torch.arange(4.0).view(1, 4, 1)
    assert shift(chunk, 1).flatten().tolist() == [1, 2, 3, 3]
    assert shift(chunk, 3).flatten().tolist() == [3, 3, 3, 3]
    assert shift(chunk, 4).flatten().tolist() == [3, 3, 3, 3]


def test_levels_are_spread_down_to_zero():
    assert even_levels(2, 3) == [2, 1, 0] and even_levels(99, 4) == [99, 66, 33, 0]
    assert even_levels(7, 1) == [7] and even_levels(3, 9) == [3, 2, 1, 0]


def test_memory_is_per_environment():
    memory, rows = ChunkMemory(), torch.tensor([0, 2])
    assert memory.recall(rows, 3)[1].tolist() == [False, False]
    memory.store(rows, torch.ones(2, 4, 1))
    assert memory.recall(torch.arange(3), 3)[1].tolist() == [True, False, True]
    memory.reset(torch.tensor([True, False, False]))
    assert memory.recall(torch.arange(3), 3)[1].tolist() == [False, False, True]
    assert not memory.recall(torch.arange(2), 2)[1].any()  # another set of environments


def test_full_denoising_asks_once_per_level_and_chunk(build):
    for name, per_chunk in (("ddpm", 20), ("ddpm:steps=5", 5), ("ddim:steps=4", 4)):
        actor = DiffusionActor(build(), f"{name}{',' if ':' in name else ':'}n_action_steps=2")
        for _ in range(4):
            act(actor, 3)
        assert actor.sampler.evaluations == 3 * 2 * per_chunk and actor.evaluations_per_action == per_chunk / 2


def test_warm_starts_are_cheap_and_enter_without_noise(build):
    """The guess is the last chunk moved on by one, unscaled; a level is one evaluation."""
    policy = build()
    actor = DiffusionActor(policy, "rti:timesteps=3,full=5,fallback=1e9")
    act(actor, 2)
    assert actor.sampler.evaluations == 2 * 5
    last = actor.sampler.memory.chunks.clone()
    asked = []
    policy.network.register_forward_hook(lambda _, given, __: asked.append(given))
    act(actor, 2)
    assert actor.sampler.evaluations == 2 * 5 + 2 * 3
    assert [int(level[0, 0]) for _, level, _ in asked] == [2, 1, 0]
    guess = shift(last, 1)
    guess[..., 1] = guess[..., 1].sign()  # clip: the gripper by sign
    torch.testing.assert_close(asked[0][0], guess)


def test_sequence_with_gaps(build):
    policy = build()
    actor = DiffusionActor(policy, "rti:timesteps=3,start_timestep=8,full=2,fallback=1e9")
    act(actor, 1)
    asked = []
    policy.network.register_forward_hook(lambda _, given, __: asked.append(int(given[1][0, 0])))
    act(actor, 1)
    assert asked == [8, 4, 0]


@pytest.mark.parametrize("factor, gripper", [("1", 1.0), ("10", 0.1)])
def test_gripper_treatments(build, factor, gripper):
    chunk = torch.tensor([[[0.5, 0.3], [0.5, -0.3], [0.5, 0.3], [0.5, 0.3]]])
    clip, _ = samplers.make(f"rti:factor={factor}", build())
    assert clip.guess(chunk)[0, :, 1].tolist() == pytest.approx([-gripper, gripper, gripper, gripper])
    keep, _ = samplers.make("rti:gripper=keep", build())
    assert torch.equal(keep.guess(chunk), shift(chunk, 1))
    scaled = build(gripper_scale=0.1)
    scale, _ = samplers.make("rti", scaled)
    assert torch.equal(scale.guess(chunk), shift(chunk, 1))
    assert scaled.normalize(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.0, 0.1])
    assert scaled.denormalize(torch.tensor([0.0, -0.1])).tolist() == pytest.approx([0.0, -1.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_reset_clears_all_state(build, name):
    """An environment that begins anew acts as one that never acted; the other goes on as if nothing had happened."""
    make = lambda: DiffusionActor(build(noise="action"), name)  # noqa: E731
    actor = make()
    for value in (5.0, -5.0):
        act(actor, 2, value)
    actor.reset(torch.tensor([True, True]))
    actor.seed(7)
    fresh = make()
    fresh.seed(7)
    for _ in range(3):
        assert torch.equal(act(actor, 2, 1.0), act(fresh, 2, 1.0))


@pytest.mark.parametrize(
    "name", ["rti:timesteps=3,full=5,fallback=1e9", "streaming:n_action_steps=1,steps=2", "rtc:steps=4,n_action_steps=1"]
)
def test_reset_of_one_environment(build, name):
    actor = DiffusionActor(build(noise="action"), name)
    for _ in range(2):
        act(actor, 3)
    before = actor.sampler.evaluations
    act(actor, 3)
    warm = (actor.sampler.evaluations - before) / 3
    actor.reset(torch.tensor([False, True, False]))
    assert actor.sampler.memory.known.tolist() == [True, False, True]
    before = actor.sampler.evaluations
    act(actor, 3)
    cold = {"r": 5, "s": 8}[name[0]] if not name.startswith("rtc") else 4
    assert actor.sampler.evaluations - before == 2 * warm + cold


def test_wrong_draft_is_fully_denoised(build):
    never, always = (DiffusionActor(build(), f"rti:timesteps=2,full=5,fallback={f}") for f in ("1e9", "1e-9"))
    for actor in (never, always):
        for _ in range(3):
            act(actor, 2)
    assert never.sampler.fallbacks == 0 and never.sampler.evaluations == 2 * (5 + 2 * 2)
    assert always.sampler.fallbacks == 4 and always.sampler.evaluations == 2 * (5 + 2 * (2 + 5))


def test_start_level_by_measured_contraction(build):
    """A network that knows the answer, zero: from far away one level is too few."""
    policy = build()
    sampler, _ = samplers.make("rti:timesteps=auto", policy)
    answer = torch.zeros(8, 4, 2)

    def knows(x, level, context):  # but believes only in errors that noise of this level explains
        _, s = policy.process.parts(level)
        return (x / s).clamp(-1, 1)

    policy.predict = knows
    context = torch.zeros(8, 2, 2)
    far = sampler.choose_levels(context, torch.full((8, 4, 2), 0.9), answer)
    near = sampler.choose_levels(context, torch.full((8, 4, 2), 0.02), answer)
    assert near == [0] and far[0] > 2 and far[-1] == 0
    for _ in range(200):
        if sampler.levels is not None:
            break
        sampler.sample(context, torch.arange(8), 8)
    assert sampler.levels is not None  # after 256 logged ticks


def test_streaming_moves_each_group_one_group_down(build):
    sampler, _ = samplers.make("streaming:n_action_steps=2,steps=2", build(noise="action"))
    ramp = sampler.ramp[..., 0].tolist()
    assert ramp[0] == [19, 19, 19, 19] and ramp[-1] == [-1, -1, 9, 9]
    assert ramp[2][:2] == [9, 9] and ramp[2][2:] == [19, 19]  # two steps from the end: as after the buffer moved on


def test_real_time_chunking_keeps_committed_actions(build):
    sampler, _ = samplers.make("rtc:steps=4,n_action_steps=1,delay=2", build())
    assert sampler.weight[:2].flatten().tolist() == [1, 1] and sampler.weight[-1] == 0 and 0 < sampler.weight[2] < 1
    context, rows = torch.zeros(1, 2, 2), torch.tensor([0])
    first = sampler.sample(context, rows, 1)
    second = sampler.sample(context, rows, 1)
    torch.testing.assert_close(second[:, :2], first[:, 1:3])


def test_ensemble_asks_at_every_step(build):
    actor = DiffusionActor(build(), "ddim:steps=3,ensemble=0.01")
    for _ in range(2):
        act(actor, 2)
    assert actor.sampler.evaluations == 2 * 2 * 3


def test_flow_draws_by_euler(build):
    policy = build(process="flow")
    for name in (None, "euler:steps=4", "rti:timesteps=3", "rtc:steps=4,n_action_steps=1"):
        assert torch.isfinite(act(DiffusionActor(policy, name), 2)).all()


@pytest.mark.parametrize(
    "name, message",
    [
        ("rit", "unknown sampler 'rit': did you mean rti"),
        ("rti:levels=3", "unknown option of sampler rti 'levels': it is timesteps now"),
        ("rti:timestep=3", "unknown option of sampler rti 'timestep': did you mean timesteps"),
        ("rti:timesteps", "'timesteps' is not an option; write KEY=VALUE"),
        ("rti:timesteps=3,timesteps=4", "option 'timesteps' is given twice"),
        ("rti:timesteps=x", "sampler rti: timesteps=x"),
        ("rti:timesteps=30", "sampler rti: 30 levels from 29 to 0: the policy has levels 0 to 19"),
        ("rti:timesteps=auto,start_timestep=3", "start_timestep=3 is what timesteps=auto chooses"),
        ("rti:gripper=scale", "gripper=scale needs a policy trained with --diffusion.gripper-scale"),
        ("ddim:n_action_steps=5", "sampler ddim: n_action_steps=5: a chunk of this policy has 4 actions"),
        ("ddim:ensemble=x", "ensemble=x: a number"),
        ("ddim:ensemble=0.1,n_action_steps=2", "leave out n_action_steps"),
        (
            "euler",
            "sampler euler needs a flow policy, and this one was trained with ddpm: use ddpm, ddim, rti, streaming, rtc",
        ),
        ("streaming", "sampler streaming: it needs a policy trained with --diffusion.noise action"),
        ("rtc:n_action_steps=3,delay=2", "delay=2, but after 3 of 4 actions 1 are left"),
    ],
)
def test_invalid_sampler_gives_one_line(build, name, message):
    with pytest.raises(ConfigError) as error:
        samplers.make(name, build())
    assert message in str(error.value) and "\n" not in str(error.value)
