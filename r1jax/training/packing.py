"""Packs completions into rows of fixed length, so that completions of the same prompt share the prompt's tokens.

`model/packed_rows.py` has a drawing of packed rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.packed_rows import PackedRows
from r1jax.sampling.rollout import Rollout


class Minibatch(NamedTuple):
    """Packed rows, and the numbers that the policy loss needs for each token.

    Attributes:
        weight: weight of each token in the loss; 0 where nothing was sampled, as in prompts and padding.
        advantage: advantage of the completion that the token belongs to.
        rollout_logp: log π of each token, as the sampler computed it.
        old_logp: log π of each token before the first optimizer step of a round (one sampling phase and its
            steps). None during that first step, where the policy in training still equals the old policy.
        ref_logp: log π of each token under the reference policy; None if there is no reference.
        row: index of the completion that each token belongs to, among the completions of the round. It is a float;
            None if nothing needs this index.
        old_value: value of the state before each token, as computed before the first optimizer step of a round; None
            without a value network.
        returns: return of each token, which the value network learns; None without a value network.
    """

    rows: PackedRows
    weight: Float[Array, "R S"]
    advantage: Float[Array, "R S"]
    rollout_logp: Float[Array, "R S"]
    old_logp: Float[Array, "R S"] | None
    ref_logp: Float[Array, "R S"] | None
    row: Float[Array, "R S"] | None = None
    old_value: Float[Array, "R S"] | None = None
    returns: Float[Array, "R S"] | None = None


class Place(NamedTuple):
    """Where a completion lies in packed rows: in row `row`, from slot `start`."""

    row: int
    start: int


def pack(
    prompts: Sequence[Sequence[int]], completions: Sequence[tuple[int, np.ndarray]], row_length: int
) -> tuple[PackedRows, list[Place]]:
    """Packs completions into rows. Within a row, every prompt occurs at most once.

    The completions of a prompt form a group. Groups are placed one by one, the group with the most tokens first.
    Within a group, longer completions are placed first. A completion goes into the first row that holds its prompt and
    has room, else into the first row that has room for completion and prompt, else into a new row. Without the order by
    groups, the completions of a prompt would be scattered over many rows, and each of these rows would repeat the
    prompt.

    Args:
        prompts: token lists.
        completions: (index of the completion's prompt, tokens of the completion) for each completion.
        row_length: S, number of slots in a row.

    Returns:
        The packed rows as int32 NumPy arrays [R, S], with as many rows as needed; and for each completion, where it
        lies.

    Raises:
        ValueError: a prompt and a completion of it have more than `row_length` tokens together.
    """
    needed = max((len(prompts[p]) + len(c) for p, c in completions), default=0)
    if needed > row_length:
        raise ValueError(
            f"row_length={row_length} is too short: a prompt with its completion has {needed} tokens; "
            f"use at least {needed}"
        )
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
    rows: PackedRows,
    r: int,
    start: int,
    tokens: Sequence[int] | np.ndarray,
    position: int,
    group: int,
    segment: int,
    source: int,
) -> None:
    """Writes a run of tokens, a prompt or a completion, into row `r` of packed rows, from slot `start`.

    Args:
        position: position of the first token; the following tokens count up from there.
        group: value of these tokens in `PackedRows.group`.
        segment: value of these tokens in `PackedRows.segment`.
        source: slot whose hidden state predicts the first token. Every following token is predicted from the slot
            before it.
    """
    end = start + len(tokens)
    rows.tokens[r, start:end] = tokens
    rows.positions[r, start:end] = np.arange(position, position + len(tokens))
    rows.group[r, start:end] = group
    rows.segment[r, start:end] = segment
    rows.source[r, start:end] = np.arange(start - 1, end - 1)
    rows.source[r, start : min(start + 1, end)] = source


def spread(values: Sequence[np.ndarray], places: Sequence[Place], shape: tuple[int, int]) -> np.ndarray:
    """Returns a float32 array [R, S] that holds the values of each completion's tokens in the slots of these tokens.

    All other slots are 0.

    Args:
        values: for each completion, one number per token.
        places: where each completion lies, from `pack`.
        shape: (R, S) of the packed rows.
    """
    out = np.zeros(shape, np.float32)
    for value, place in zip(values, places, strict=True):
        out[place.row, place.start : place.start + len(value)] = value
    return out


def find_wanted(counted: Bool[np.ndarray, "R S"], parts: int) -> Int[np.ndarray, "R U"] | None:
    """Returns `PackedRows.wanted` [R, U]: for each row, the slots where `counted` is True. None if U would be S.

    U is the largest number of such slots in a row, rounded up to a multiple of S / `parts`, because each value of U
    needs its own compiled program. Rows with fewer such slots are filled up with the number S.
    """
    length = counted.shape[1]
    unit = -(-length // parts)
    most = max(-(-int(counted.sum(axis=1).max(initial=0)) // unit), 1) * unit
    if most >= length:
        return None
    order = np.argsort(~counted, axis=1, kind="stable")[:, :most]
    return np.where(np.take_along_axis(counted, order, axis=1), order, length).astype(np.int32)


def spread_routes(
    rollout: Rollout, completions: Sequence[tuple[int, int]], rows: PackedRows, places: Sequence[Place]
) -> np.ndarray:
    """Returns the experts that the sampler routed each token of packed rows to, [R, S, L, k]; -1 where unknown.

    L is the number of layers with experts, and k the number of experts that a token visits in such a layer.

    Args:
        completions: (index of its prompt, index of its row in the rollout) for each completion, in the order in which
            the completions were packed.
        rows, places: result of `pack`.
    """
    out = np.full((*rows.tokens.shape, *rollout.routes.shape[2:]), -1, np.int16)
    for (prompt, i), place in zip(completions, places, strict=True):
        length = rollout.lengths[i]
        out[place.row, place.start : place.start + length] = rollout.routes[i, :length]
        mine = (rows.group[place.row] == rows.group[place.row, place.start]) & (rows.segment[place.row] == 0)
        out[place.row, mine] = rollout.prompt_routes[prompt]
    return out


def gather(array: np.ndarray, places: Sequence[Place], lengths: Sequence[int]) -> list[np.ndarray]:
    """Returns, for each completion, the values of its tokens in `array` [R, S]. The inverse of `spread`.

    Args:
        places: where each completion lies, from `pack`.
        lengths: number of tokens of each completion.
    """
    return [array[p.row, p.start : p.start + n] for p, n in zip(places, lengths, strict=True)]


class TokenBatch(NamedTuple):
    """Packed rows for supervised training, with the weight of each token in the loss."""

    rows: PackedRows
    weight: Float[Array, "R S"]


class SoftBatch(NamedTuple):
    """Packed rows for distillation from a teacher, with K target tokens per slot.

    Attributes:
        weight: weight of each slot in the loss.
        targets: target tokens, such as the teacher's most likely tokens.
        shares: target probability of each target token, such as the teacher's; 0 for a target that does not count.
    """

    rows: PackedRows
    weight: Float[Array, "R S"]
    targets: Int[Array, "R S K"]
    shares: Float[Array, "R S K"]
