"""Program of test_distributed.py: rank 1 fails before collectives that rank 0 reaches; rank 0 prints what each rank raised."""

import torch

from rpd.core.joining import joined
from rpd.envs.errors import ConfigError, ServerLost


def outcome(world, block):
    """Return the error of a block, after which the ranks must be in step."""
    try:
        with world.together():
            block()
        error = None
    except (ConfigError, ServerLost) as fault:
        error = fault
    assert world.sum(torch.tensor(1)) == 2
    return [type(error).__name__, str(error), error is not None and world.is_shared(error)]


def fail(world):
    if world.rank == 1:
        raise ServerLost("gone")


with joined("cpu") as world:

    def copied():
        fail(world)
        world.copy_from_first([torch.zeros(3)])

    def nested():
        fail(world)
        with world.together():
            world.gather("x")

    def refused():
        raise world.fault("too few")

    generator = torch.Generator().manual_seed(world.rank)
    with world.together():
        world.copy_generator_from_first(generator)
    found = [outcome(world, block) for block in (copied, nested, refused, lambda: world.sum(torch.tensor(1)))]
    found.append(torch.rand(1, generator=generator).item())
    for line in world.gather(found):
        if world.is_first:
            print(line)
