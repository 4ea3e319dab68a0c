"""The sample of earlier observations."""

import torch
from tensordict import TensorDict

from rpd.rollout.replay_buffer import Replay


def batch(values: list[int]) -> TensorDict:
    numbers = torch.tensor(values, dtype=torch.float32)
    return TensorDict({"state": numbers[:, None], "image.front": numbers.byte()[:, None]}, [len(values)])


def kept(replay: Replay) -> list[int]:
    assert torch.equal(replay.rows["image.front"], replay.rows["state"].byte())
    return replay.rows["state"][:, 0].int().tolist()


def test_keeps_everything_while_there_is_room() -> None:
    replay = Replay(5, torch.Generator())
    replay.add(batch([0, 1, 2]))
    replay.add(batch([3]))
    assert kept(replay) == [0, 1, 2, 3] and replay.seen == 4


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
    assert torch.equal(drawn["image.front"], drawn["state"].byte())
    assert set(drawn["state"][:, 0].int().tolist()) == set(range(8))


def test_resumes() -> None:
    replay = Replay(6, torch.Generator().manual_seed(0))
    replay.add(batch(list(range(9))))
    resumed = Replay(6, torch.Generator())
    resumed.load_state_dict(replay.state_dict(), torch.device("cpu"))
    resumed.generator.set_state(replay.generator.get_state())
    for r in (replay, resumed):
        r.add(batch(list(range(9, 20))))
    assert kept(resumed) == kept(replay) and resumed.seen == replay.seen == 20
