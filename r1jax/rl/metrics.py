"""Makes the lines of metrics.jsonl and samples.jsonl.

A round samples completions once and trains on them in several optimizer steps. metrics.jsonl has a line for each step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from r1jax.distributed import gather_json, gather_rows
from r1jax.evaluation.completions import traits
from r1jax.evaluation.statistics import mean
from r1jax.losses import explained_variance
from r1jax.planning.utilization import Pace
from r1jax.prompts import fill
from r1jax.rewards.verdict import describe
from r1jax.rl.minibatches import find_moving, split_rows
from r1jax.rl.rounds import Round
from r1jax.runs.step_logger import Describe, Times

SHOWN = ("reward/accuracy", "reward/format", "completion/length")  # on the progress bar


class RoundLog:
    """Makes the metrics.jsonl lines of the optimizer steps of a round. Every process makes a `RoundLog` right after
    sampling.

    Args:
        round_: the round, with scores and advantages.
        minibatches: number of optimizer steps of the round.
        pace: compares the speed of rollouts and updates with the limits of the hardware.
        all_rows: whether updates also train on rows of advantage 0; see `find_moving`.
        all_parameters: whether all parameters are trained. If only adapters are trained, the lines have no `perf/mfu`.
    """

    def __init__(self, round_: Round, minibatches: int, pace: Pace, all_rows: bool, *, all_parameters: bool):
        self._rows, self._group_size = round_rows(round_), round_.rollout.group_size
        rows, size = self._rows, self._group_size
        self._prompts, self._lengths = round_.drawn or (rows["prompt"][::size], rows["length"])
        self._parts = split_rows(len(rows["total"]) // size, size, minibatches)
        self._pace, self._all_rows, self._all_parameters = pace, all_rows, all_parameters
        self._began, self._ended = round_.began, time.monotonic()
        self._arrived, self._took = round_.arrived, round_.took
        self._shares: dict[str, float] | None = None  # `perf/` entries of the rollout, filled in by the first step

    def describe(self, part: int) -> Describe:
        """Returns the function `(figures, times) -> line` that makes the metrics.jsonl line of an optimizer step.

        `figures` are the metrics of the step's update. `times` says when the device was ready for the step, and when
        the step's metrics arrived on the host.

        Args:
            part: index of the optimizer step within the round, from 0.
        """
        rows = {name: values[self._parts[part]] for name, values in self._rows.items()}

        def line(figures: Mapping[str, float], times: Times) -> dict:
            return step_metrics(rows, figures, self._group_size) | self._measure(rows, times)

        return line

    def _measure(self, rows: Mapping[str, np.ndarray], times: Times) -> dict[str, float]:
        """Returns the `perf/` entries of a step's line: times in seconds, and utilization.

        The time of a step begins with the sampling of its round, or when the previous step ends if that is later. With
        --ahead, it begins when the training loop asks for the round in place of the sampling. `perf/rollout_s` is then
        the time that sampling took beside the updates of an earlier round, and `perf/wait_s` the time for which the
        loop waited for the round.

        Args:
            rows: the step's rows of `round_rows`.
            times: when the step was ready and done.
        """
        began = max(self._began, times.before)
        if self._shares is None:
            self._first, seconds = began, self._ended - began if self._took is None else self._took
            self._shares = {"perf/rollout_s": seconds} | self._pace.rollout(self._prompts, self._lengths, seconds)
            if self._arrived is not None:
                self._shares["perf/wait_s"] = max(0.0, self._arrived - began)
        perf = {
            "perf/step_s": times.done - began,
            "perf/tokens_per_s": self._lengths.sum() / (times.done - self._first),
            **self._shares,
        }
        if not self._all_parameters:
            return perf
        moving, prompts = find_moving(rows["advantage"], self._all_rows), rows["prompt"][:: self._group_size]
        return perf | self._pace.update(prompts, rows["length"], moving, times.done - times.ready)


def round_rows(round_: Round) -> dict[str, np.ndarray]:
    """Returns {name: [N] values} of measurements of each completion, such as reward, advantage and length.

    Every process must call this function.
    """
    group_size = round_.rollout.group_size
    tokens = [tuple(row[:n]) for row, n in zip(round_.rollout.tokens, round_.rollout.lengths, strict=True)]
    alone = [group_size > 1 and len(set(tokens[i : i + group_size])) == 1 for i in range(0, len(tokens), group_size)]
    values = {
        "total": round_.scores.total,
        "valid": round_.scores.valid,
        "advantage": round_.advantages,
        "prompt": np.repeat([len(p) for p in round_.rollout.prompts], group_size),
        "length": round_.rollout.lengths,
        "stopped": round_.rollout.stopped,
        "one_completion": np.repeat(alone, group_size),
        **gather_rows(traits(round_.texts, round_.repeated), round_.rollout.own, len(tokens)),
        **{f"part/{name}": part for name, part in round_.scores.parts.items()},
    }
    if round_.scores.failed is not None:
        values["failed"] = round_.scores.failed
    if round_.sampled is not None:
        values["sampled"] = np.full(len(tokens), round_.sampled)
    if (version := round_.rollout.version) is not None:
        age = np.where(np.arange(version.shape[1]) < round_.rollout.lengths[:, None], round_.step - version, 0)
        values |= {"age": age.sum(axis=1), "oldest": age.max(axis=1), "waiting": np.full(len(tokens), round_.waiting)}
    return values


def step_metrics(
    rows: Mapping[str, np.ndarray], update: Mapping[str, float], group_size: int
) -> dict[str, float | None]:
    """Returns the line of metrics.jsonl for one optimizer step, {name: value}, without `step` and `perf/`.

    A value is None if there was nothing to average.

    Args:
        rows: the values of `round_rows` for the n rows of this step, as {name: [n]}.
        update: {name: value} of the update's metrics. Averages over tokens are given as weighted sums, which this
            function divides by "weight", the sum of the weights.
        group_size: G, completions of each question.
    """
    valid = rows["valid"] > 0
    accuracy = rows.get("part/accuracy", np.full(len(valid), np.nan))
    groups = np.where(valid, rows["total"], np.nan).reshape(-1, group_size)
    with np.errstate(all="ignore"):
        spread_out = np.nanmax(groups, axis=1, initial=-np.inf) > np.nanmin(groups, axis=1, initial=np.inf)
    total = update["weight"] or 1.0
    averaged = ("kl", "clip_fraction", "entropy", "sampler_gap/k3", "sampler_gap/truncated", "off_policy")
    return {
        "reward/mean": mean(rows["total"][valid]),
        "reward/std": float(np.std(rows["total"][valid])) if valid.any() else None,
        "reward/max": float(rows["total"][valid].max()) if valid.any() else None,
        **{f"reward/{k.removeprefix('part/')}": mean(v) for k, v in rows.items() if k.startswith("part/")},
        **measure_share(rows),
        "completion/length": mean(rows["length"]),
        "completion/length_right": mean(rows["length"][accuracy == 1]),
        "completion/length_wrong": mean(rows["length"][accuracy == 0]),
        "completion/truncated": mean(rows["stopped"] == 0),
        "completion/reflective_words": mean(rows["reflective_words"]),
        "completion/language": mean(rows["language"]),
        "group/zero_variance": mean(~spread_out),
        "group/one_completion": mean(rows["one_completion"]),
        "rows/invalid": mean(~valid),
        **({"rows/failed": mean(rows["failed"])} if "failed" in rows else {}),
        **({"group/sampled": mean(rows["sampled"])} if "sampled" in rows else {}),
        **{name: update[name] / total for name in averaged if name in update},
        "loss": update["loss"],
        "log_ratio/max": update["log_ratio/max"],
        "sampler_gap/max": update["sampler_gap/max"],
        "grad_norm": update["grad_norm"],
        "update/skipped": update["skipped"],
        **{name: update[name] for name in ("experts/imbalance",) if name in update},
        **(measure_values(update, total) if "value/loss" in update else {}),
        **(measure_staleness(rows) if "age" in rows else {}),
    }


def measure_values(update: Mapping[str, float], weight: float) -> dict[str, float | None]:
    """Returns the `value/` entries of a step's line, which describe the value network's predictions and its update.

    Args:
        update: the update's metrics, as for `step_metrics`.
        weight: the sum of the weights of the tokens.
    """
    return {
        "value/loss": update["value/loss"],
        "value/explained_variance": explained_variance(update, weight),
        **{name: update[name] / weight for name in ("value/clip_fraction", "value/mean", "value/return")},
        "value/grad_norm": update["value/grad_norm"],
    }


def measure_share(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns {"reward/largest_share": the largest squared correlation of a part of the reward with the total reward}.

    The correlation is taken over the valid rows. Returns {} if fewer than two parts vary.

    Args:
        rows: as for `step_metrics`.
    """
    valid = rows["valid"] > 0
    parts = [np.nan_to_num(part[valid]) for name, part in rows.items() if name.startswith("part/")]
    parts, total = [part for part in parts if part.size and part.std() > 0], rows["total"][valid]
    if len(parts) < 2 or total.std() == 0:
        return {}
    return {"reward/largest_share": float(max(np.corrcoef(part, total)[0, 1] ** 2 for part in parts))}


def measure_staleness(rows: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Returns the `staleness/` entries of a step's line, and `group/waiting`, the number of unfinished groups.

    The staleness of a token is the number of optimizer steps between two policies: the one that sampled the token, and
    the one at the start of the round that trains on the token's group. `rows`: as for `step_metrics`.
    """
    return {
        "staleness/mean": float(rows["age"].sum() / max(rows["length"].sum(), 1)),
        "staleness/max": float(rows["oldest"].max(initial=0)),
        "group/waiting": mean(rows["waiting"]),
    }


def runs(versions: np.ndarray) -> list[list[int]]:
    """Splits a completion into runs of tokens that the same policy sampled.

    Returns [version, number of tokens] of each run.

    Args:
        versions: [T] the version of the policy that sampled each token. The version is the number of optimizer
            steps for which that policy had been trained.
    """
    starts = np.flatnonzero(np.diff(versions, prepend=-1))
    return [[int(versions[a]), int(b - a)] for a, b in zip(starts, [*starts[1:], len(versions)], strict=True)]


def sample_lines(step: int, round_: Round, seed: int, count: int, template: str) -> list[dict]:
    """Returns lines of samples.jsonl for some completions, spread evenly over the round.

    Every process must call this function.

    Args:
        step: number of the optimizer step, which each line has as "step".
        seed: seed of the sampling noise. A line's "key" is [seed, round, index of the question in the stream, index
            of the completion in its group].
        count: number of completions to write.
        template: the prompt template.
    """
    group_size, lines = round_.rollout.group_size, []
    texts = dict(zip(map(int, round_.rollout.own), round_.texts, strict=True))
    rows = np.unique(np.linspace(0, len(round_.rollout.lengths) - 1, max(count, 0)).astype(int))
    for i in (int(row) for row in rows if row in texts):
        example, sample = round_.examples[i // group_size], int(i % group_size)
        asked = round_.number if round_.asked is None else int(round_.asked[i // group_size])
        version = round_.rollout.version
        lines.append(
            {
                "step": step,
                "round": asked,
                "id": example["id"],
                "sample": sample,
                "kind": example.get("task", example["kind"]),
                "language": example.get("language"),
                "problem": example["problem"],
                "gold": example["gold"],
                "prompt": fill(template, example["problem"]),
                "completion": texts[i],
                "length": int(round_.rollout.lengths[i]),
                "truncated": not round_.rollout.stopped[i],
                "reward": {name: float(part[i]) for name, part in round_.scores.parts.items()},
                "verdict": round_.scores.verdicts[i].verdict if round_.scores.verdicts else None,
                "why": describe(round_.scores.verdicts[i]) if round_.scores.verdicts else None,
                "advantage": float(round_.advantages[i]),
                "key": [seed, asked, int(round_.index[i // group_size]), sample],
                **({} if version is None else {"versions": runs(version[i, : round_.rollout.lengths[i]])}),
            }
        )
    every = {(line["key"][2], line["sample"]): line for part in gather_json(lines) for line in part}
    return [every[key] for key in sorted(every)]
