"""The sample of earlier observations and their labels."""

import torch
from tensordict import TensorDict

from rpd.replay import Replay


def batch(values: list[int], valid: list[bool] | None = None) -> TensorDict:
    n = len(values)
    numbers = torch.tensor(values, dtype=torch.float32)
    obs = TensorDict({"state": numbers[:, None], "privileged": torch.zeros(n, 2)}, [n])
    fields = {"teacher.mean": numbers[:, None], "teacher.valid": torch.tensor(valid or [True] * n), "value": numbers}
    return TensorDict({"obs": obs, **fields}, [n])


def kept(replay: Replay) -> list[int]:
    assert torch.equal(replay.rows["teacher.mean"], replay.rows["obs", "state"])
    return replay.rows["obs", "state"][:, 0].int().tolist()


def test_keeps_everything_while_there_is_room_but_not_what_was_not_labelled() -> None:
    replay = Replay(5, torch.Generator())
    replay.add(batch([0, 1, 2], [True, False, True]))
    replay.add(batch([3]))
    assert kept(replay) == [0, 2, 3] and replay.seen == 3
    assert set(replay.rows.keys()) == {"obs", "teacher.mean", "teacher.valid"}
    assert set(replay.rows["obs"].keys()) == {"state", "privileged"}


def test_keeps_every_row_where_nobody_labels() -> None:
    replay = Replay(5, torch.Generator())
    replay.add(batch([0, 1, 2]).select("obs", "value"))
    assert replay.rows["obs", "state"][:, 0].tolist() == [0, 1, 2]
    assert set(replay.rows.keys()) == {"obs"}


def test_every_row_is_as_likely_to_be_kept_as_any_other() -> None:
    counts = torch.zeros(60)
    for seed in range(400):
        replay = Replay(12, torch.Generator().manual_seed(seed))
        for start in range(0, 60, 20):
            replay.add(batch(list(range(start, start + 20))))
        counts[kept(replay)] += 1
        assert replay.seen == 60 and len(replay.rows) == 12
    share = counts.view(6, 10).mean(1) / 400  # a fifth; standard error of each of the six: 0.0063
    assert torch.all((share - 0.2).abs() < 0.025), share


def test_samples_rows_as_they_were_stored() -> None:
    replay = Replay(8, torch.Generator().manual_seed(0))
    replay.add(batch(list(range(8))))
    drawn = replay.sample(400)
    assert drawn.batch_size == torch.Size([400])
    assert torch.equal(drawn["obs", "state"], drawn["teacher.mean"])
    assert set(drawn["teacher.mean"][:, 0].int().tolist()) == set(range(8))


def test_resumes() -> None:
    replay = Replay(6, torch.Generator().manual_seed(0))
    replay.add(batch(list(range(9))))
    resumed = Replay(6, torch.Generator())
    resumed.load_state_dict(replay.state_dict(), torch.device("cpu"))
    resumed.generator.set_state(replay.generator.get_state())
    for r in (replay, resumed):
        r.add(batch(list(range(9, 20))))
    assert kept(resumed) == kept(replay) and resumed.seen == replay.seen == 20
