"""Answers of the policy process: which one a tick takes, and how long it waits."""

from types import SimpleNamespace

import pytest

from rpd.deploy.policy import PolicyLost, PolicyProcess


def reply(tick):
    return {"tick": tick, "action": [0.0] * 7, "seconds": 0.01, "who": "student", "spread": None, "value": None}


@pytest.fixture
def process():
    """`process(inbox...)`: a policy whose link delivers these lists of messages, one per call, and then times out."""

    def make(*inbox):
        arrivals = iter(inbox)
        link = SimpleNamespace(name="policy x", send=lambda message: None, take=lambda until: next(arrivals, []))
        policy = object.__new__(PolicyProcess)
        policy._child, policy._asked = SimpleNamespace(link=link), -1
        return policy

    return make


def test_tick_waits_for_its_own_answer_after_a_late_one(process):
    policy = process([reply(4)], [reply(5)], [reply(6)])
    policy.ask(5, {}, "")
    assert policy.answer(until=9e9).tick == 5
    policy.ask(6, {}, "")
    assert policy.answer(until=9e9).tick == 6


def test_late_answer_is_used_if_the_own_one_does_not_arrive_in_time(process):
    policy = process([reply(4)])
    policy.ask(5, {}, "")
    assert policy.answer(until=9e9).tick == 4
    assert policy.answer(until=9e9) is None


def test_tick_without_a_query_does_not_wait(process):
    policy = process([reply(4)], [reply(5)])
    policy.ask(5, {}, "")
    assert policy.answer(None).tick == 4


def test_error_of_the_policy_is_raised(process):
    policy = process([{"error": "out of memory"}])
    with pytest.raises(PolicyLost, match="policy x: out of memory"):
        policy.answer(None)
