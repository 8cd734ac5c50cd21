"""Packing: sequences share rows, and nothing is lost, doubled or read by a stranger."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r1jax.model.packed_rows import visible
from r1jax.sampling.rollout import Rollout
from r1jax.training.packing import gather, pack, spread


@st.composite
def packings(draw):
    """Prompts, completions of them in any order, and a row length they fit."""
    prompts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    members = draw(st.lists(st.tuples(st.integers(0, len(prompts) - 1), st.integers(1, 9)), min_size=1, max_size=12))
    longest = max(prompts[p] + n for p, n in members)
    # Every token of the world is a different number: the token tells who it is.
    numbers = iter(range(1, 10_000))
    prompts = [[next(numbers) for _ in range(n)] for n in prompts]
    completions = [(p, np.asarray([next(numbers) for _ in range(n)], np.int32)) for p, n in members]
    return prompts, completions, longest + draw(st.integers(0, 20))


@settings(max_examples=80, deadline=None)
@given(packings())
def test_every_completion_is_packed_once_with_its_prompt_before_it(packing):
    prompts, completions, row_length = packing
    rows, places = pack(prompts, completions, row_length)
    used = np.zeros(rows.tokens.shape, int)
    for (p, tokens), place in zip(completions, places, strict=True):
        slots = place.start + np.arange(len(tokens))
        used[place.row, slots] += 1
        np.testing.assert_array_equal(rows.tokens[place.row, slots], tokens)
        np.testing.assert_array_equal(rows.positions[place.row, slots], len(prompts[p]) + np.arange(len(tokens)))
        # The source of each token holds the token before it in its own sequence.
        before = [prompts[p][-1], *tokens[:-1]]
        np.testing.assert_array_equal(rows.tokens[place.row, rows.source[place.row, slots]], before)
    # What is neither completion nor padding is prompts, each at most once in a row.
    assert used.max() == 1
    for r in range(len(used)):
        held = {p for (p, _), place in zip(completions, places, strict=True) if place.row == r}
        want = sorted(t for p in held for t in prompts[p])
        lead = (rows.group[r] > 0) & (used[r] == 0)
        assert sorted(rows.tokens[r, lead]) == want
        assert not rows.segment[r, lead].any()
        assert not rows.tokens[r, rows.group[r] == 0].any()


@settings(max_examples=25, deadline=None)
@given(packings())
def test_a_token_sees_its_prompt_and_its_own_completion_up_to_itself_and_nothing_else(packing):
    prompts, completions, _ = packing
    rows, places = pack(prompts, completions, 48)
    seen = np.asarray(visible(rows))
    for (p, tokens), place in zip(completions, places, strict=True):
        for t in range(len(tokens)):
            slots = np.flatnonzero(seen[place.row, place.start + t])
            order = np.argsort(rows.positions[place.row, slots])
            assert rows.tokens[place.row, slots][order].tolist() == [*prompts[p], *tokens[: t + 1]]
    # No slot is blind, or its attention would be over nothing; padding sees padding alone.
    assert seen[:, np.arange(48), np.arange(48)].all()
    padding = rows.group == 0
    assert not (seen & padding[:, :, None] & ~padding[:, None, :]).any()


def test_the_drawing_of_the_module():
    # Two prompts of 4 and 3 tokens; completions of 7, 7 and 6 fill a row of 27 as drawn, one slot less does not.
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    completions = [(0, np.arange(10, 17)), (0, np.arange(20, 27)), (1, np.arange(30, 36))]
    rows, places = pack(prompts, completions, 28)
    assert [tuple(p) for p in places] == [(0, 4), (0, 11), (0, 21)]
    assert rows.group[0].tolist() == [1] * 18 + [2] * 9 + [0]
    assert rows.segment[0].tolist() == [0] * 4 + [1] * 7 + [2] * 7 + [0] * 3 + [1] * 6 + [0]
    assert rows.positions[0].tolist() == [*range(11), *range(4, 11), *range(9), 0]
    assert rows.source[0, [4, 11, 21]].tolist() == [3, 3, 20]
    assert len(pack(prompts, completions, 26)[0].tokens) == 2


def test_a_row_that_cannot_hold_a_sequence_is_an_error_that_says_how_long_it_must_be():
    with pytest.raises(ValueError, match=r"row_length=9 .* 10 tokens"):
        pack([[1, 2, 3]], [(0, np.arange(7))], 9)


def test_an_empty_completion_takes_no_slot_and_harms_no_neighbour():
    # The second completion starts where the empty one would have: at slot 2, predicted from slot 1.
    rows, places = pack([[1, 2], [3]], [(0, np.arange(5, 8)), (0, np.arange(0)), (1, np.arange(9, 10))], 7)
    assert len(gather(rows.tokens, places, [3, 0, 1])[1]) == 0
    assert rows.tokens[0].tolist() == [1, 2, 5, 6, 7, 3, 9]
    assert rows.source[0].tolist() == [0, 0, 1, 2, 3, 4, 5]


@settings(max_examples=30, deadline=None)
@given(packings())
@example(([[1]], [(0, np.asarray([2], np.int32))], 2))
def test_gather_takes_back_what_spread_laid_out(packing):
    prompts, completions, row_length = packing
    rows, places = pack(prompts, completions, row_length)
    values = [tokens.astype(np.float32) / 7 for _, tokens in completions]
    laid = spread(values, places, rows.tokens.shape)
    for got, want in zip(gather(laid, places, [len(v) for v in values]), values, strict=True):
        np.testing.assert_array_equal(got, want)
    assert np.count_nonzero(laid) == sum(map(len, values))


def test_a_rollout_knows_its_group_size():
    empty = np.zeros((6, 4))
    assert Rollout([[1], [2]], empty, np.zeros(6), empty, np.zeros(6, bool)).group_size == 3


def test_a_group_shares_its_rows_whatever_the_lengths_of_others():
    """First fit over all completions by length would mix all four groups in each row: eight rows, and 32 prompts."""
    completions = [(p, np.full(10 + (i + p) % 4, p + 1, np.int32)) for i in range(8) for p in range(4)]
    rows, places = pack([[9] * 40 for _ in range(4)], completions, 40 + 8 * 10 + 12)
    assert len(rows.tokens) == 4
    assert len({(p, place.row) for (p, _), place in zip(completions, places, strict=True)}) == 4


def test_no_completions_pack_into_no_rows():
    rows, places = pack([[1]], [], 8)
    assert places == []
    assert all(x.shape == (0, 8) for x in rows[:5])
