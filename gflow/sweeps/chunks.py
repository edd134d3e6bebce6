"""The grid of points cut into chunks: boxes of neighbours, which cost about the same.

What a flow costs depends on the scale, and little on the seed. So a box is filled along integers (seeds) first, then
along data sets, and along real numbers, in increasing order, only as far as room is left.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Points of a chunk: enough for its bookkeeping to vanish beside it, few enough that little is lost with a worker.
MOST_POINTS = 64
# Samples times parameters of all points of a chunk: keeps chunks of large networks to seconds.
_MOST_WORK = 400_000
# Bytes of what a chunk gives back, or of the data that it needs.
_MOST_BYTES = 32_000_000
# A small sweep is cut at least into so many chunks, so that all workers have something to do.
_FEWEST_CHUNKS = 16


class Chunk(NamedTuple):
    """A box of the grid: an index range for each axis."""

    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def region(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.begin, self.end, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.begin, self.end, strict=True))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def points(self) -> np.ndarray:
        """The index of every point along every axis, shape (size, axes)."""
        return np.stack(np.unravel_index(np.arange(self.size), self.shape), axis=1) + np.array(self.begin)


def most_points(work: int, bytes_out: int) -> int:
    """How many points a chunk may have, by samples times parameters and by the bytes of a point's result."""
    return max(1, min(MOST_POINTS, _MOST_WORK // max(work, 1), _MOST_BYTES // max(bytes_out, 1)))


def extents(lengths: Sequence[int], order: Sequence[int], most: int) -> tuple[int, ...]:
    """The shape of a chunk of at most `most` points: filled along the axes `order`, and of one elsewhere."""
    room = max(1, min(most, math.prod(lengths) // _FEWEST_CHUNKS))
    shape = [1] * len(lengths)
    for axis in order:
        fits = min(lengths[axis], room)
        # Even shares, rather than full chunks and a rest.
        shape[axis] = -(-lengths[axis] // -(-lengths[axis] // fits))
        room //= shape[axis]
    return tuple(shape)


def cut(lengths: Sequence[int], shape: Sequence[int]) -> Iterator[Chunk]:
    """All chunks, in an order that jumps about in the grid: what is left then costs as much as what is done."""
    counts = [-(-length // side) for length, side in zip(lengths, shape, strict=True)]
    corners = list(itertools.product(*(range(0, n * side, side) for n, side in zip(counts, shape, strict=True))))
    total = len(corners)
    stride = max(1, round(total * (math.sqrt(5.0) - 1.0) / 2.0))
    while math.gcd(stride, total) > 1:
        stride += 1
    for k in range(total):
        begin = corners[k * stride % total]
        end = tuple(min(b + side, length) for b, side, length in zip(begin, shape, lengths, strict=True))
        yield Chunk(begin, end)
