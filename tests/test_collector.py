"""The host's buffer of sampled tokens: whole chunks at once give what a loop over rows gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.sampling.collector import Collector
from r1jax.sampling.rollout import Rollout

STOPS = (0, 7)


def add_by_row(self: Collector, alive, tokens, logp, routes=None) -> None:
    """`Collector.add`, a row at a time."""
    for column, row in enumerate(alive):
        if self.finished[row]:
            continue
        start = self.lengths[row]
        stops = np.flatnonzero(np.isin(tokens[:, column], STOPS))
        count = min(len(tokens) if not len(stops) else stops[0] + 1, self.tokens.shape[1] - start)
        self.tokens[row, start : start + count] = tokens[:count, column]
        self.logp[row, start : start + count] = logp[:count, column]
        if routes is not None:
            self.routes[row, start - 1 : start - 1 + count] = routes[:count, column]
        self.lengths[row] += count
        self.finished[row] = bool(len(stops)) and count == stops[0] + 1


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 20), st.booleans(), st.booleans())
def test_chunks_give_what_a_loop_over_rows_gives(seed, rows, most, routed, carried):
    rng = np.random.default_rng(seed)
    before = None
    if carried:
        n, lengths = int(rng.integers(1, rows + 1)), rng.integers(0, most + 1, rows)
        shape = (n, most)
        before = Rollout(
            prompts=[[1]] * n,
            tokens=rng.integers(1, 7, shape).astype(np.int32),
            lengths=lengths[:n].astype(np.int32),
            logp=-rng.random(shape, np.float32),
            stopped=rng.random(n) < 0.3,
        )
    one, other = (Collector(np.arange(rows), np.arange(rows), most, 9, STOPS, before) for _ in range(2))
    if routed:
        for each in (one, other):
            each.lengths = np.maximum(each.lengths, 1)  # prefill has sampled a token of every row
            each.keep_routes((2, 3))
    for _ in range(5):
        live = rng.permutation(np.flatnonzero(one.live()))
        others = np.flatnonzero(~one.live()[:rows])
        alive = np.concatenate([live, others, np.full(rng.integers(0, 4), rows)])  # rows that fill a shard, at its end
        steps = int(rng.integers(1, 6))
        tokens = rng.integers(0, 30, (steps, len(alive))).astype(np.int32)
        logp = -rng.random((steps, len(alive)), np.float32)
        routes = rng.integers(0, 8, (steps, len(alive), 2, 3)).astype(np.int32) if routed else None
        one.add(alive, tokens, logp, routes)
        add_by_row(other, alive, tokens, logp, routes)
        for name in ("tokens", "logp", "lengths", "finished", "routes"):
            got, want = getattr(one, name), getattr(other, name)
            np.testing.assert_array_equal(got, want, name)
            assert want is None or got.dtype == want.dtype


@pytest.mark.parametrize("stop, length, finished", [(2, 3, True), (4, 4, False)])
def test_a_row_ends_with_its_stop_token_or_where_it_is_full(stop, length, finished):
    collector, tokens = Collector(np.arange(1), np.arange(1), 4, 9, STOPS), np.full((6, 1), 5)
    tokens[stop] = 7
    collector.add(np.asarray([0]), tokens, np.zeros((6, 1), np.float32))
    assert collector.lengths[0] == length and collector.finished[0] == finished and not collector.live()[0]
