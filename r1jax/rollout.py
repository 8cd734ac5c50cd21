"""What a rollout is, and how sequences share rows.

A *packed row* holds several sequences side by side. Completions of one prompt share that prompt's tokens:

    tokens    | prompt A | completion A1 | completion A2 | prompt B | completion B1 | pad |
    group     | 1 1 1 1  | 1 1 1 1 1 1 1 | 1 1 1 1 1 1 1 | 2 2 2 2  | 2 2 2 2 2 2 2 | 0 0 |
    segment   | 0 0 0 0  | 1 1 1 1 1 1 1 | 2 2 2 2 2 2 2 | 0 0 0 0  | 1 1 1 1 1 1 1 | 0 0 |
    positions | 0 1 2 3  | 4 5 6 ...     | 4 5 6 ...     | 0 1 2 3  | 4 5 6 ...     | 0 0 |

A token reads the earlier tokens of its group that are prompt or of its own completion, so every number equals that of a
row of its own, and a prompt costs one pass instead of G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Rollout(NamedTuple):
    """Sampled completions, on the host. N = B·G rows, question-major.

    Attributes:
        prompts: B lists of prompt tokens.
        tokens: [N, T] completion tokens, the stop token included, padded on the right.
        lengths: [N] number of sampled tokens, the stop token included.
        logp: [N, T] float32 log-probabilities of the sampled tokens at the sampling temperature, 0 off the mask.
        stopped: [N] whether a stop token was sampled; False means truncated.
        routes: [N, T, L, k] experts that each token visited in each layer of experts, -1 where none is known (a row's
            last token was never fed), if asked for.
        prompt_routes: the same of each prompt.
        version: [N, T] the optimizer step of the policy that sampled each token, where rows may be carried over.
    """

    prompts: list[list[int]]
    tokens: np.ndarray
    lengths: np.ndarray
    logp: np.ndarray
    stopped: np.ndarray
    routes: np.ndarray | None = None
    prompt_routes: list[np.ndarray] | None = None
    version: np.ndarray | None = None

    @property
    def group_size(self) -> int:
        return len(self.lengths) // len(self.prompts)

    @property
    def unfinished(self) -> np.ndarray:
        """[N] rows that a later wave may go on with."""
        return ~self.stopped & (self.lengths < self.tokens.shape[1])


class PackedRows(NamedTuple):
    """Token arrays [R, S] as in the module's drawing; `source` is the slot whose hidden state predicts this token.

    `routes` are experts to be visited again, -1 where the router chooses anew.
    """

    tokens: Int[Array, "R S"]
    positions: Int[Array, "R S"]
    group: Int[Array, "R S"]
    segment: Int[Array, "R S"]
    source: Int[Array, "R S"]
    routes: Int[Array, "R S L k"] | None = None


class Minibatch(NamedTuple):
    """Packed rows and what the loss needs of each token; weight 0 where nothing was sampled.

    Attributes:
        rollout_logp: the sampler's.
        old_logp: None where the update's own forward pass gives them: before the first step of a round.
        ref_logp: None without a reference.
    """

    rows: PackedRows
    weight: Float[Array, "R S"]
    advantage: Float[Array, "R S"]
    rollout_logp: Float[Array, "R S"]
    old_logp: Float[Array, "R S"] | None
    ref_logp: Float[Array, "R S"] | None


def visible(rows: PackedRows) -> Bool[Array, "R S S"]:
    """`[r, query, key]`: earlier or same slot, same group, and prompt or own completion."""
    slots = jnp.arange(rows.tokens.shape[1])
    earlier = slots[None, :, None] >= slots[None, None, :]
    group, segment = rows.group, rows.segment
    own = (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
    return earlier & own & (group[:, :, None] == group[:, None, :])


def numbered(rows: PackedRows) -> Int[Array, "R S"]:
    """The number in its row of the prompt, completion or padding that each slot belongs to, from the left."""
    before = [jnp.pad(x[:, :-1], ((0, 0), (1, 0)), mode="edge") for x in (rows.group, rows.segment)]
    return jnp.cumsum((rows.group != before[0]) | (rows.segment != before[1]), axis=1)


class Place(NamedTuple):
    """Where a completion lies: row r, slots start..start + length."""

    row: int
    start: int


def pack(
    prompts: Sequence[Sequence[int]], completions: Sequence[tuple[int, np.ndarray]], row_length: int
) -> tuple[PackedRows, list[Place]]:
    """Completions packed into rows, each row repeating a prompt at most once.

    Group by group, the largest first, each by decreasing length: into the first of the group's own rows that has room,
    else the first of all rows, where the prompt is laid once more. First fit over all completions at once would scatter
    groups over rows, and repeat most prompts in each.

    Args:
        prompts: token lists.
        completions: (index of its prompt, its tokens) each.
        row_length: S; at least the longest prompt + completion.

    Returns:
        rows as int32 NumPy arrays [R, S] with as many rows as needed, and the place of each completion.

    Raises:
        ValueError: if a prompt with its completion is longer than a row.
    """
    needed = max((len(prompts[p]) + len(c) for p, c in completions), default=0)
    if needed > row_length:
        raise ValueError(f"row_length={row_length} is too short: a prompt with its completion has {needed} tokens")
    sizes = [len(tokens) for _, tokens in completions]
    of: dict[int, list[int]] = {}  # prompt -> its completions
    for i, (prompt, _) in enumerate(completions):
        of.setdefault(prompt, []).append(i)
    used: list[int] = []  # slots taken in each row
    holds: list[list[tuple[int, list[int]]]] = []  # per row: (prompt, its completions)
    for prompt, group in sorted(of.items(), key=lambda each: -sum(sizes[i] for i in each[1])):
        mine: dict[int, list[int]] = {}  # row -> completions of this prompt in it
        for i in sorted(group, key=lambda i: -sizes[i]):
            r = next((r for r in mine if used[r] + sizes[i] <= row_length), None)
            if r is None:
                cost = len(prompts[prompt]) + sizes[i]
                r = next((r for r, taken in enumerate(used) if taken + cost <= row_length), len(used))
                if r == len(used):
                    used.append(0)
                    holds.append([])
                used[r] += len(prompts[prompt])
                mine[r] = []
                holds[r].append((prompt, mine[r]))
            used[r] += sizes[i]
            mine[r].append(i)
    rows = PackedRows(*(np.zeros((len(used), row_length), np.int32) for _ in range(5)))
    places: list[Place] = [Place(0, 0)] * len(completions)
    for r, groups in enumerate(holds):
        cursor = 0
        for g, (prompt, members) in enumerate(groups, start=1):
            base, size = cursor, len(prompts[prompt])
            put(rows, r, cursor, prompts[prompt], 0, g, 0, max(cursor - 1, 0))
            cursor += size
            for s, i in enumerate(members, start=1):
                tokens = completions[i][1]
                put(rows, r, cursor, tokens, size, g, s, base + size - 1)
                places[i] = Place(r, cursor)
                cursor += len(tokens)
    return rows, places


def put(
    rows: PackedRows, r: int, start: int, tokens: Sequence[int] | np.ndarray, position: int, group: int, segment: int,
    source: int,
) -> None:
    """Writes one run of tokens; the first is predicted from slot `source`, each further one from the slot before."""
    end = start + len(tokens)
    rows.tokens[r, start:end] = tokens
    rows.positions[r, start:end] = np.arange(position, position + len(tokens))
    rows.group[r, start:end] = group
    rows.segment[r, start:end] = segment
    rows.source[r, start:end] = np.arange(start - 1, end - 1)
    rows.source[r, start : min(start + 1, end)] = source


def spread(values: Sequence[np.ndarray], places: Sequence[Place], shape: tuple[int, int]) -> np.ndarray:
    """Per-completion token values laid at their places in a [R, S] float32 array of zeros."""
    out = np.zeros(shape, np.float32)
    for value, place in zip(values, places, strict=True):
        out[place.row, place.start : place.start + len(value)] = value
    return out


def spread_routes(
    rollout: Rollout, completions: Sequence[tuple[int, int]], rows: PackedRows, places: Sequence[Place]
) -> np.ndarray:
    """The experts of packed tokens, [R, S, L, k].

    Args:
        completions: (index of its prompt, index of its row in the rollout) each, as packed.
    """
    out = np.full((*rows.tokens.shape, *rollout.routes.shape[2:]), -1, np.int16)
    for (prompt, i), place in zip(completions, places, strict=True):
        length = rollout.lengths[i]
        out[place.row, place.start : place.start + length] = rollout.routes[i, :length]
        mine = (rows.group[place.row] == rows.group[place.row, place.start]) & (rows.segment[place.row] == 0)
        out[place.row, mine] = rollout.prompt_routes[prompt]
    return out


def gather(array: np.ndarray, places: Sequence[Place], lengths: Sequence[int]) -> list[np.ndarray]:
    """The inverse of `spread`."""
    return [array[p.row, p.start : p.start + n] for p, n in zip(places, lengths, strict=True)]
