"""What a round measured: the lines of metrics.jsonl and samples.jsonl."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax.data import prompts as questions
from r1jax.evaluate import mean, traits
from r1jax.prompts import fill
from r1jax.rounds import Round


def pooled(values: Mapping[str, np.ndarray], group_size: int) -> dict[str, np.ndarray]:
    """Per-row values of all processes, in one process's order. Questions are dealt to processes in turn."""
    count = jax.process_count()
    if count == 1:
        return dict(values)
    gathered = multihost_utils.process_allgather({k: np.asarray(v, np.float64) for k, v in values.items()})
    return {k: v.reshape(count, -1, group_size).transpose(1, 0, 2).reshape(-1) for k, v in gathered.items()}


def round_rows(round_: Round, group_size: int, step: int = 0) -> dict[str, np.ndarray]:
    """What each row of a round measured, of all processes.

    Args:
        step: of the policy the round began with; asked for where tokens may be of an older one.
    """
    repeated = [example for example in round_.examples for _ in range(group_size)]
    tokens = [tuple(row[:n]) for row, n in zip(round_.rollout.tokens, round_.rollout.lengths, strict=True)]
    alone = [len(set(tokens[i : i + group_size])) == 1 for i in range(0, len(tokens), group_size)]
    values = {
        "total": round_.scores.total, "valid": round_.scores.valid, "advantage": round_.advantages,
        "prompt": np.repeat([len(p) for p in round_.rollout.prompts], group_size),
        "length": round_.rollout.lengths, "stopped": round_.rollout.stopped,
        "one_completion": np.repeat(alone, group_size), **traits(round_.texts, repeated),
        **{f"part/{name}": part for name, part in round_.scores.parts.items()},
    }  # fmt: skip
    if (version := round_.rollout.version) is not None:
        age = np.where(np.arange(version.shape[1]) < round_.rollout.lengths[:, None], step - version, 0)
        values |= {"age": age.sum(axis=1), "oldest": age.max(axis=1), "waiting": np.full(len(tokens), round_.waiting)}
    return pooled(values, group_size)


def step_metrics(
    rows: Mapping[str, np.ndarray], update: Mapping[str, float], group_size: int
) -> dict[str, float | None]:
    """One line of metrics.jsonl, without step and perf, from the rows and the update of one optimizer step."""
    valid = rows["valid"] > 0
    right = rows["part/accuracy"] == 1
    groups = np.where(valid, rows["total"], np.nan).reshape(-1, group_size)
    with np.errstate(all="ignore"):
        spread_out = np.nanmax(groups, axis=1, initial=-np.inf) > np.nanmin(groups, axis=1, initial=np.inf)
    total = update["weight"] or 1.0
    averaged = ("kl", "clip_fraction", "entropy", "sampler_gap/k3", "sampler_gap/truncated")
    return {
        "reward/mean": mean(rows["total"][valid]),
        "reward/std": float(np.std(rows["total"][valid])) if valid.any() else None,
        "reward/max": float(rows["total"][valid].max()) if valid.any() else None,
        **{f"reward/{k.removeprefix('part/')}": mean(v) for k, v in rows.items() if k.startswith("part/")},
        "completion/length": mean(rows["length"]),
        "completion/length_right": mean(rows["length"][right]),
        "completion/length_wrong": mean(rows["length"][rows["part/accuracy"] == 0]),
        "completion/truncated": mean(rows["stopped"] == 0),
        "completion/reflective_words": mean(rows["reflective_words"]),
        "completion/language": mean(rows["language"]),
        "group/zero_variance": mean(~spread_out),
        "group/one_completion": mean(rows["one_completion"]),
        "rows/invalid": mean(~valid),
        **{name: update[name] / total for name in averaged if name in update},
        "loss": update["loss"],
        "log_ratio/max": update["log_ratio/max"],
        "sampler_gap/max": update["sampler_gap/max"],
        "grad_norm": update["grad_norm"],
        "update/skipped": update["skipped"],
        **{name: update[name] for name in ("experts/imbalance",) if name in update},
        **(carried(rows) if "age" in rows else {}),
    }


def carried(rows: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """How many steps older than the round's policy those were that sampled its tokens; the groups that wait then."""
    return {
        "staleness/mean": float(rows["age"].sum() / max(rows["length"].sum(), 1)),
        "staleness/max": float(rows["oldest"].max(initial=0)),
        "group/waiting": mean(rows["waiting"]),
    }


def runs(versions: np.ndarray) -> list[list[int]]:
    """[version, tokens] of each stretch that one policy sampled."""
    starts = np.flatnonzero(np.diff(versions, prepend=-1))
    return [[int(versions[a]), int(b - a)] for a, b in zip(starts, [*starts[1:], len(versions)], strict=True)]


def sample_lines(
    step: int, round_number: int, round_: Round, seed: int, count: int, group_size: int, template: str
) -> list[dict]:
    """`count` rows of this process's round for samples.jsonl, evenly over its questions and groups."""
    lines = []
    for i in np.unique(np.linspace(0, len(round_.texts) - 1, max(count, 0)).astype(int)):
        example, sample = round_.examples[i // group_size], int(i % group_size)
        asked = round_number if round_.asked is None else int(round_.asked[i // group_size])
        version = round_.rollout.version
        lines.append({
            "step": step, "round": asked, "id": example["id"], "sample": sample,
            "kind": example.get("task", example["kind"]), "language": example.get("language"),
            "problem": example["problem"], "gold": example["gold"],
            "prompt": fill(template, example["problem"]), "completion": round_.texts[i],
            "length": int(round_.rollout.lengths[i]), "truncated": not round_.rollout.stopped[i],
            "reward": {name: part[i] for name, part in round_.scores.parts.items()},
            "verdict": round_.scores.verdicts[i].verdict, "advantage": float(round_.advantages[i]),
            "key": [seed, asked, questions.number(example), sample],
            **({} if version is None else {"versions": runs(version[i, : round_.rollout.lengths[i]])}),
        })  # fmt: skip
    return lines
