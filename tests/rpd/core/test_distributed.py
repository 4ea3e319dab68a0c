"""Ranks: errors of one rank, shares of rows, the environment of torchrun, and differences between the programs of the ranks."""

import ast
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

from rpd.cli.main import main
from rpd.core import ranks
from rpd.core.distributed import SOLO, World
from rpd.core.joining import joined, rank_device
from rpd.envs.errors import ConfigError
from rpd.runs.same_program import check_same_program
from rpd.students.networks.normalizer import Normalizer
from rpd.students.row_share import draw_rows
from tests import ranks as processes


class Answers(World):
    """A world whose other rank gathers given values."""

    def __init__(self, change):
        super().__init__(0, 2)
        self.change = change

    def gather(self, value):
        return [value, {**value, **self.change}]


class Options(BaseModel):
    seed: int = 0


def test_shares_cover_all_rows_once():
    shares = [World(rank, 3).share(10) for rank in range(3)]
    assert [(s.first, s.count) for s in shares] == [(0, 3), (3, 3), (6, 4)]
    assert sum(s.fraction for s in shares) == pytest.approx(1)


def test_random_numbers_of_a_row_do_not_depend_on_the_ranks():
    def draw(share):
        generator = torch.Generator().manual_seed(0)
        return draw_rows(lambda n: torch.randn(n, 2, generator=generator), 5 if share is None else share.count, share)

    assert torch.equal(draw(None), torch.cat([draw(World(rank, 2).share(5)) for rank in (0, 1)]))


def test_one_rank_is_the_identity():
    x = torch.tensor([1.0, 2.0, 4.0])
    with joined("cpu") as world:
        assert world is SOLO and world.sum(x) is x and world.gather(3) == [3] and world.any(True) and not world.any(False)
        assert world.mean_std(x) == (x.mean(), x.std(correction=0)) and world.first(lambda: "x") == "x"


def test_statistics_of_two_processes_are_those_of_all_rows():
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    whole, part = Normalizer(3), Normalizer(3)
    for batch in (rows, 2 * rows + 1):
        whole.update(batch)
        own, other = batch[:3].double(), batch[3:].double()
        mean = batch.double().mean(0)
        theirs = iter([torch.cat([other.sum(0), torch.tensor([4.0])]), (other - mean).square().sum(0)])
        part.update(own, lambda x, theirs=theirs: x + next(theirs))
    assert part.count == whole.count and torch.allclose(part.mean, whole.mean) and torch.allclose(part.var, whole.var)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK not set: start the ranks with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE is 2 and RANK 2: start the ranks with torchrun"),
        ({"WORLD_SIZE": "two"}, "environment variable WORLD_SIZE is 'two', not a number: start the ranks with torchrun"),
    ],
)
def test_incomplete_environment_is_refused(variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        ranks.rank()
    assert str(error.value) == message


def test_verbs_of_one_process_are_refused_on_several(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["eval", "zero", "--task", "tabletop/Reach"]) == 2
    assert capsys.readouterr().err == "rpd eval (rank 1): rpd eval runs as one process: start it without torchrun\n"


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="4 ranks on a machine with 2 GPUs: start at most one per GPU, or add --device cpu"):
        rank_device("cuda")
    with pytest.raises(ConfigError, match="device cuda:1: each of 4 ranks uses a GPU of its own"):
        rank_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert rank_device("cuda") == "cuda:1" and rank_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"option seed": "1"}, "rank 1 of 2 differs from rank 0: option seed is 1, not 0"),
        ({"torch": "1.0"}, f"rank 1 of 2 differs from rank 0: torch is 1.0, not {torch.__version__}"),
        ({"code of rpd": "x"}, "rank 1 of 2 differs from rank 0: code of rpd is x, not "),
    ],
)
def test_different_programs_are_refused(change, message):
    with pytest.raises(ConfigError) as error:
        check_same_program(Answers(change), Options())
    assert str(error.value).startswith(message)


def test_same_programs_are_accepted():
    check_same_program(Answers({}), Options())


def test_an_error_of_one_rank_ends_the_collectives_of_the_other(tmp_path):
    codes, outputs = processes.run([[str(Path(__file__).with_name("faults_on_ranks.py"))]] * 2, tmp_path)
    assert codes == [0, 0], outputs
    first, second = map(ast.literal_eval, outputs[0].splitlines())
    lost = ["ServerLost", "rank 1 of 2: gone", True]
    assert first[:4] == [lost, lost, ["ConfigError", "too few", True], ["NoneType", "None", False]]
    assert second[:4] == [["ServerLost", "gone", True]] * 2 + first[2:4]
    assert first[4] == second[4] == torch.rand(1, generator=torch.Generator().manual_seed(0)).item()
