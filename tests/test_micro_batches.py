"""How many rows the micro-batches of a minibatch have."""

import numpy as np
import pytest

from r1jax.rl.minibatches import size_micro_batches


@pytest.mark.parametrize(
    ("rows", "batch_rows", "shards", "sizes"),
    [
        (10, 64, 1, [16]),
        (22, 64, 16, [32]),
        (64, 64, 16, [64]),
        (70, 64, 16, [64, 16]),
        (33, 8, 1, [8, 8, 8, 8, 2]),
        (0, 8, 1, [2]),
        (3, 8, 8, [8]),
        (3, 2, 8, [8]),  # fewer rows than shards
        (5, 6, 1, [6]),
        (7, 6, 1, [6, 3]),
    ],
)
def test_the_last_micro_batch_has_as_many_rows_as_it_needs(rows, batch_rows, shards, sizes):
    assert size_micro_batches(rows, batch_rows, shards) == sizes


def test_micro_batches_hold_all_rows_on_all_shards_and_have_three_sizes():
    for shards in (1, 2, 8):
        found = [size_micro_batches(rows, 64, shards) for rows in range(1, 200)]
        assert all(sum(sizes) >= rows for rows, sizes in enumerate(found, start=1))
        assert not np.any([size % shards for sizes in found for size in sizes])
        assert len({size for sizes in found for size in sizes}) <= 3
