"""Defines cohorts: the new rows of a wave, and the rows that an earlier wave left unfinished.

A row is one completion that is being sampled. A wave is the set of rows that are sampled together. A carried row is a
row that an earlier wave began and this wave continues. New rows and carried rows share the matrix products with
the weights, and the clock (`programs.Rows.clock`), which counts the tokens that each row samples in this wave.
They do not share caches and prompt segments. A carried row keeps its earlier tokens in its prompt segment, and a common
array would pad the prompts of new rows to the length of these segments. Rows are ordered by shard, and within a shard
by cohort. So splitting an array into cohorts moves no row to another shard:

    | shard 0: new  new  new  carried | shard 1: new  new  new  carried |

A third cohort, the spare rows, may follow in each shard. Spare rows only enlarge the matrix products with the weights;
their results are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model.attention import Attend, How
from r1jax.model.cache import Sharing
from r1jax.sampling.rollout import Rollout


class Cohort(NamedTuple):
    """Either the new rows of a wave, or the rows that the wave carries over from an earlier wave.

    A wave is the set of rows (completions) that are sampled together. Padding rows are added, so that every shard has
    equally many rows.

    Attributes:
        prompts: token lists to read before the first new token; for a carried row, the prompt and the tokens sampled so
            far. Each prompt serves the same number of rows of its shard.
        rows: [shards, n] the index of each row in the rollout's arrays. A padding row has the index N, one past the end
            of the N rows.
    """

    prompts: list[list[int]]
    rows: np.ndarray


def make_cohorts(
    prompts: Sequence[Sequence[int]], rows: int, before: Rollout | None, leave: int, shards: int
) -> list[Cohort]:
    """Returns the cohort of new rows, and the cohort of rows carried over from an earlier wave.

    The second cohort is missing if `leave` is 0 and no row is carried over.

    Args:
        prompts: the prompt of each group of new rows, as token lists.
        rows: number of rows in the rollout, including the rows of `before`.
        before: rollout of earlier waves, whose unfinished rows are carried over; None if there is none.
        leave: minimum number of rows in the cohort of carried rows. Padding rows fill the cohort up to this number,
            because every size compiles another program.
        shards: total number of row shards, over all processes.
    """

    def filled(prompts: Sequence[Sequence[int]], numbers: np.ndarray, count: int, each: int) -> Cohort:
        count = -(-count // shards) * shards
        whole = [*map(list, prompts), *[list(prompts[-1])] * (count - len(prompts))]
        padding = np.full(count * each - len(numbers), rows)
        return Cohort(whole, np.concatenate([numbers, padding]).reshape(shards, -1))

    old = 0 if before is None else len(before.lengths)
    group_size = (rows - old) // len(prompts)
    parts = count_parts(len(prompts), group_size, shards)
    again = [prompt for prompt in prompts for _ in range(parts)]
    found = [filled(again, np.arange(old, rows), len(again), group_size // parts)]
    begun = np.arange(0) if before is None else np.flatnonzero(before.unfinished)
    if room := max(leave, len(begun)):
        read = [[*before.prompts[i // group_size], *before.tokens[i, : before.lengths[i]].tolist()] for i in begun]
        found.append(filled(read or prompts[-1:], begun, room, 1))
    return found


def count_parts(groups: int, group_size: int, shards: int) -> int:
    """Returns into how many equal parts to divide each group of completions. Each part lies on one shard.

    Every shard must have equally many parts, so padding rows may be needed. Chooses the number with the fewest padding
    rows: 2 whole groups on 4 shards leave 2 shards with padding alone, but 4 half groups fill all shards. Between equal
    choices, takes the fewest parts, because each part reads the group's prompt again.

    Args:
        groups: number of groups.
        group_size: G, rows (completions) of a group.
        shards: total number of row shards, over all processes.
    """
    divisors = [k for k in range(1, group_size + 1) if group_size % k == 0]
    return min(divisors, key=lambda k: -(-groups * k // shards) * (group_size // k))


def rows_of_process(cohorts: Sequence[Cohort], rows: int, holders: Sequence[Sequence[int]], process: int) -> np.ndarray:
    """Returns the sorted indices of the rows that a process decodes to text, judges and counts.

    Every row belongs to one process. A row of a cohort belongs to a process that holds the row's shard. The rows that
    an earlier wave finished are dealt to the processes in turn.

    Args:
        rows: number of rows in the rollout.
        holders: the processes that hold each shard, from `row_holders`. The holders of a shard divide its rows among
            themselves.
        process: index of the process.
    """
    owner = np.arange(rows + 1) % (max(max(holding) for holding in holders) + 1)
    for cohort in cohorts:
        for numbers, holding in zip(cohort.rows, holders, strict=True):
            owner[numbers] = np.asarray(holding)[np.arange(len(numbers)) * len(holding) // max(len(numbers), 1)]
    return np.flatnonzero(owner[:rows] == process)


def share_entries(entries: np.ndarray, count: int, each: int) -> Sharing:
    """Returns which rows read which entry (cached prompt) of a `Segment`, as a `Sharing` of host arrays.

    Args:
        entries: [shards, n] index of the entry that each row of a shard reads.
        count: number of entries of a shard.
        each: the largest number of rows that can read an entry. The `Sharing` has this many places for each entry.
    """
    shards, rows = entries.shape
    order = np.argsort(entries, axis=1, kind="stable")
    inside = np.take_along_axis(entries, order, axis=1)
    begin = np.apply_along_axis(lambda of: np.searchsorted(of, of), 1, inside)  # first row of the same entry
    place = np.empty_like(entries)
    np.put_along_axis(place, order, inside * each + np.arange(rows) - begin, axis=1)
    readers = np.zeros((shards, count * each), np.int32)
    np.put_along_axis(readers, place, np.broadcast_to(np.arange(rows), place.shape), axis=1)
    return Sharing(readers, place.astype(np.int32))


def split(x: jax.Array, sizes: Sequence[int], shards: int) -> list[jax.Array]:
    """Splits an array [N, ..] of the rows of all cohorts into one array [size, ..] for each cohort (new rows, carried
    rows, spare rows).

    Args:
        sizes: number of rows of each cohort, on all shards together.
        shards: number of row shards. Rows of the same shard are neighbours in x, ordered by cohort.
    """
    if len(sizes) == 1:
        return [x]
    by_shard, parts, start = x.reshape(shards, -1, *x.shape[1:]), [], 0
    for size in sizes:
        parts.append(by_shard[:, start : start + size // shards].reshape(size, *x.shape[1:]))
        start += size // shards
    return parts


def join(parts: Sequence[jax.Array], shards: int) -> jax.Array:
    """Joins one array [size, ..] per cohort into an array [N, ..] over all rows: the inverse of `split`."""
    if len(parts) == 1:
        return parts[0]
    by_shard = [x.reshape(shards, -1, *x.shape[1:]) for x in parts]
    return jnp.concatenate(by_shard, axis=1).reshape(-1, *parts[0].shape[1:])


def append_spare_rows(x: jax.Array, spare: int, shards: int) -> jax.Array:
    """Returns x [N, ..] with `spare` rows added, [N + spare, ..].

    Every shard gets `spare / shards` copies of its own first row, at its end. The copies only give matrix products more
    rows (see `Sizes.exact_rows`); their results are dropped.
    """
    by_shard = x.reshape(shards, -1, *x.shape[1:])
    again = jnp.repeat(by_shard[:, :1], spare // shards, axis=1)
    return jnp.concatenate([by_shard, again], axis=1).reshape(-1, *x.shape[1:])


def attend_nothing(q: jax.Array, k: jax.Array, v: jax.Array | None, how: How) -> tuple[jax.Array, None]:
    """The `attend` (see `model.attention`) of spare rows. Returns zeros as the output, and None as `kept`."""
    return jnp.zeros((*q.shape[:3], how.values if v is None else v.shape[-1]), q.dtype), None


def attend_each(attends: Sequence[Attend], sizes: Sequence[int], shards: int) -> Attend:
    """Returns an `attend` (see `model.attention`) over all rows, which calls the `attend` of each cohort on the rows of
    that cohort. Its `kept` is a tuple of the cohorts' `kept`.

    Args:
        attends: the `attend` of each cohort.
        sizes, shards: see `split`.
    """

    def attend(q: jax.Array, k: jax.Array, v: jax.Array | None, how: How) -> tuple[jax.Array, tuple[Any, ...]]:
        values = [None] * len(sizes) if v is None else split(v, sizes, shards)
        parts = zip(*(split(x, sizes, shards) for x in (q, k, how.positions)), values, strict=True)
        found = [
            attend(q, k, v, how._replace(positions=positions))
            for attend, (q, k, positions, v) in zip(attends, parts, strict=True)
        ]
        return join([out for out, _ in found], shards), tuple(kept for _, kept in found)

    return attend
