"""Sharing a test set between processes without counting an image twice."""

from collections.abc import Iterator, Sized

from torch.utils.data import Sampler

from dmdd.errors import UserError


class ShardSampler(Sampler[int]):
    """Gives each process its own images: rank r takes images r, r + world_size, and so on.

    Args:
        dataset: the test set; only its length is read.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        UserError: `rank` outside [0, world_size).

    Source: ours. torch's DistributedSampler, which Lightning sets by default, repeats images until all processes have
    equally many, and every repeat would be counted. The metrics here talk to other processes in `compute` only, so the
    shares may differ in length.
    """

    def __init__(self, dataset: Sized, *, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise UserError(f"rank must lie in [0, {world_size}), not {rank}")
        self._own = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)
