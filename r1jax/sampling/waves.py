"""Samples more completions than memory holds at once, in waves. Each wave continues the unfinished rows of the wave
before it.

A row is one completion. A wave ends when about half of its rows are finished. The next wave takes new prompts in place
of the finished rows. It also continues the unfinished rows: one prefill reads their tokens again (see the module
`cohorts`). Each row has a random key of its own, which decides its tokens. So every token is the same, whatever the
size of a wave.

With `Sampling.replay`, which records the experts of each token, every wave finishes all its rows instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.model.config import ModelConfig
from r1jax.sampling import sampler
from r1jax.sampling.programs import Weights
from r1jax.sampling.rollout import Rollout
from r1jax.sampling.sampler import Partial, Sampling


def sample_in_waves(
    cfg: ModelConfig,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    keys: np.ndarray,
    mesh: Mesh,
    sampling: Sampling,
    finished: Callable[[list[tuple[int, np.ndarray]]], None] | None = None,
    partial: Partial = sampler.WHOLE,
) -> Rollout:
    """Does the same as `sampler.sample`, but samples at most `sampling.wave_rows` rows (completions) at once.

    If `sampling.wave_rows` is 0, all rows are sampled at once.

    Raises:
        ValueError: several waves are needed, and `sampling.wave_rows` is too small for them. A wave needs room for one
            group (the completions of one prompt), and for further rows. The number of further rows is
            `partial.leave`, or the number of unfinished rows of `partial.before` if that is larger. Also the errors of
            `sample`.
    """
    before, leave = partial
    old = 0 if before is None else len(before.lengths)
    rows, size = sampling.wave_rows, (len(keys) - old) // max(len(prompts), 1)
    carried = 0 if before is None else int(before.unfinished.sum())
    if not rows or not prompts or len(keys) - old + max(carried, leave) <= rows:
        return sampler.sample(cfg, weights, prompts, keys, mesh, sampling, finished, partial)
    each, stays = divide_wave(rows, size, max(carried, leave), continues=not sampling.replay)
    each = -(-len(prompts) // -(-len(prompts) // each))  # as many waves, of equal size
    done = Done(prompts, before, size)
    for first in range(0, len(prompts), each):
        new = np.arange(first, min(first + each, len(prompts))) + done.old
        groups = np.append(done.open, new)
        numbers = (groups[:, None] * size + np.arange(size)).reshape(-1)  # rows in the whole rollout
        last = first + each >= len(prompts)

        def told(some: list[tuple[int, np.ndarray]], numbers: np.ndarray = numbers) -> None:
            some = [(int(numbers[row]), tokens) for row, tokens in some]
            done.told.extend(row for row, _ in some)
            if finished:
                finished(some)

        asked = [prompts[i - done.old] for i in new]
        wave = Partial(done.rollout_of(done.open), leave if last else stays)
        done.add(groups, sampler.sample(cfg, weights, asked, keys[numbers], mesh, sampling, told, wave))
    return done.rollout()


def divide_wave(rows: int, size: int, carried: int, *, continues: bool) -> tuple[int, int]:
    """Returns (number of new groups of a wave, number of rows that may be unfinished when the wave ends).

    A group is the completions of one prompt. If waves can continue rows, new groups take about half of a wave's rows,
    and rows that the previous wave left unfinished take the rest. If waves cannot continue rows, new groups take all
    rows but `carried`, which are kept free for rows of other rounds.

    Args:
        rows: largest number of rows of a wave.
        size: rows of a group.
        carried: number of rows that an earlier round left unfinished, or number of rows that the last wave may leave
            unfinished for the next round, whichever is larger.
        continues: whether a wave may leave rows unfinished that the next wave continues.

    Raises:
        ValueError: `rows` is less than `size` + `carried`.
    """
    if rows < size + carried:
        beside = f" beside {carried} rows of --carry-over" if carried else ""
        raise ValueError(
            f"--wave-rows: a wave of {rows} completions has no room for the {size} completions of one prompt{beside}; "
            f"set --wave-rows to at least {size + carried}, counted over all processes"
        )
    room = (rows - carried) // size
    new = min(room, -(-rows // (2 * size))) if continues else room
    return new, rows - new * size if continues else carried


class Done:
    """Collects the groups (the completions of one prompt each) that the waves sample, and joins them into one rollout.

    Attributes:
        old: number of groups that were sampled, at least in part, before the first wave.
        open: [k] indices, in the joined rollout, of the groups that have unfinished rows.
        told: indices, in the joined rollout, of the rows whose end the sampler reported to this process. The sampler
            reports through its argument `finished`.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], before: Rollout | None, size: int):
        """
        Args:
            prompts: the prompts to sample.
            before: the rollout that the first wave continues; None if there is none.
            size: rows of a group.
        """
        self.old = 0 if before is None else len(before.lengths) // size
        self._prompts = [*(before.prompts if before is not None else []), *map(list, prompts)]
        self._size, self._groups = size, len(prompts) + self.old
        self._fields: dict[str, np.ndarray] = {}
        self._prompt_routes: dict[int, np.ndarray] = {}
        self._ended_before = np.zeros(self._groups * size, bool)
        self._mine = np.zeros(self._groups * size, bool)
        self.told: list[int] = []
        self.open = np.arange(0)
        if before is not None:
            self._ended_before[: self.old * size] = ~before.unfinished
            self.add(np.arange(self.old), before)

    def add(self, groups: np.ndarray, rollout: Rollout) -> None:
        """Stores the rows of some groups, and sets `open` to those of `groups` that have unfinished rows.

        Args:
            groups: indices of these groups in the joined rollout.
            rollout: the rows of the groups, in the order of `groups`.
        """
        rows = self._rows(groups)
        for name in ("tokens", "lengths", "logp", "stopped", "routes"):
            found = getattr(rollout, name)
            if found is None:
                continue
            if name not in self._fields:
                self._fields[name] = np.zeros((self._groups * self._size, *found.shape[1:]), found.dtype)
            self._fields[name][rows] = found
        for group, routes in zip(groups, rollout.prompt_routes or [], strict=False):
            self._prompt_routes[int(group)] = routes
        self._mine[rows] = False
        self._mine[rows[rollout.own]] = True
        self.open = groups[rollout.unfinished.reshape(-1, self._size).any(axis=1)]

    def rollout_of(self, groups: np.ndarray) -> Rollout | None:
        """Returns the rows of some groups; None if there are no groups."""
        if not len(groups):
            return None
        rows = self._rows(groups)
        fields = {name: x[rows] for name, x in self._fields.items()}
        return Rollout([self._prompts[i] for i in groups], **fields)

    def rollout(self) -> Rollout:
        """Returns all groups as one rollout.

        Its field `mine` names the rows of this process. A row that ended in these waves belongs to the process to which
        the sampler reported the end. Any other row belongs to the same process as in the last wave that held the row.
        """
        whole = self.rollout_of(np.arange(self._groups))
        mine = self._mine & (whole.unfinished | self._ended_before)
        mine[self.told] = True
        routes = [self._prompt_routes[i] for i in range(self._groups)] if self._prompt_routes else None
        return whole._replace(mine=np.flatnonzero(mine), prompt_routes=routes)

    def _rows(self, groups: np.ndarray) -> np.ndarray:
        return (groups[:, None] * self._size + np.arange(self._size)).reshape(-1)
