"""Defines packed rows, in which several sequences share a row.

A *packed row* holds several sequences side by side. Completions of one prompt share that prompt's tokens:

    tokens    | prompt A | completion A1 | completion A2 | prompt B | completion B1 | pad |
    group     | 1 1 1 1  | 1 1 1 1 1 1 1 | 1 1 1 1 1 1 1 | 2 2 2 2  | 2 2 2 2 2 2 2 | 0 0 |
    segment   | 0 0 0 0  | 1 1 1 1 1 1 1 | 2 2 2 2 2 2 2 | 0 0 0 0  | 1 1 1 1 1 1 1 | 0 0 |
    positions | 0 1 2 3  | 4 5 6 ...     | 4 5 6 ...     | 0 1 2 3  | 4 5 6 ...     | 0 0 |

A token reads earlier tokens of its group that belong to the prompt or to its own completion. So each
completion gets the same results as if it alone followed its prompt. A prompt with G completions is computed once
instead of G times.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class PackedRows(NamedTuple):
    """Arrays [R, S] with one entry per slot, as in the drawing at the top of this module.

    Attributes:
        tokens: token in each slot.
        positions: position of the token in its own sequence (prompt and completion).
        group: index of the prompt within the row, counted from 1. Completions have their prompt's index, and padding 0.
        segment: 0 for a prompt; for a completion, its index within the group, counted from 1.
        source: slot of the same row whose hidden state predicts this token.
        routes: experts that the token must visit in each layer with experts, -1 where the router chooses; None if the
            router chooses everywhere.
        wanted: for each row, the indices of the slots whose log-probabilities are needed, in ascending order. They are
            padded with S, which is no index of a slot. None means all slots. The unembedding costs as much as several
            layers, so prompts and padding are left out.
    """

    tokens: Int[Array, "R S"]
    positions: Int[Array, "R S"]
    group: Int[Array, "R S"]
    segment: Int[Array, "R S"]
    source: Int[Array, "R S"]
    routes: Int[Array, "R S L k"] | None = None
    wanted: Int[Array, "R U"] | None = None


def visible(rows: PackedRows) -> Bool[Array, "R S S"]:
    """Returns the attention mask [row, query slot, key slot]: True where the query may read the key.

    The key must lie in the same or an earlier slot of the same group, and in the prompt or in the query's completion.
    """
    slots = jnp.arange(rows.tokens.shape[1])
    earlier = slots[None, :, None] >= slots[None, None, :]
    group, segment = rows.group, rows.segment
    own = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    return earlier & own & (group[:, :, None] == group[:, None, :])


def number_runs(rows: PackedRows) -> Int[Array, "R S"]:
    """Returns for each slot the number of its run. A run is a prompt, a completion or padding.

    The runs of a row are numbered from the left, from 0.
    """
    before = [jnp.pad(x[:, :-1], ((0, 0), (1, 0)), mode="edge") for x in (rows.group, rows.segment)]
    return jnp.cumsum((rows.group != before[0]) | (rows.segment != before[1]), axis=1)
