"""C3: a rollout with a long tail: the wave beside a static batch and beside slots with refill, with the same layers.

64 rows (4 prompts x 16) of forced lengths, lognormal, mean 48, at most 192. The model finds all tokens equally likely
and the rows' keys are chosen by where they stop, so `sample` itself runs, unchanged. The static batch decodes all rows
to the end of the longest in a full window; 16 slots take a new row every 16 steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.bench.measure import Options, line, middle, spread, turns

SIZES = {
    "full": dict(prompts=4, group=16, prompt=48, mean=48, most=192, slots=16, steps=16),
    "toy": dict(prompts=2, group=4, prompt=8, mean=6, most=24, slots=4, steps=4),
}


def measure(options: Options) -> dict[str, Any]:
    """The line of C3."""
    from experiments.bench import slots, wave
    from experiments.bench.shapes import MODELS, long_tailed, random_prompts
    from r1jax import sampler
    from r1jax.sharding import make_mesh

    size = SIZES[options.size]
    cfg, weights, stop_ids = wave.forced(MODELS[options.size])
    most, mesh = size["most"], make_mesh("1x1")
    lengths = long_tailed(size["prompts"] * size["group"], size["mean"], most)
    keys = wave.forcing_keys(cfg, lengths, most)
    prompts = random_prompts(cfg, size["prompts"], size["prompt"])
    found: dict[str, np.ndarray] = {}
    paid: dict[str, int] = {"static": len(lengths) * (most - 1)}

    def ours() -> None:
        rollout = sampler.sample(
            cfg, weights, prompts, keys, mesh, max_tokens=most, temperature=1.0, stop_ids=stop_ids, pad_id=0
        )
        found["wave"] = rollout.lengths

    def static() -> None:
        segments, logits = wave.prefilled(cfg, weights, prompts)
        rows = wave.begun(cfg, logits, keys, size["prompt"], most, stop_ids)
        stopped = np.asarray(rows.done)
        _, (tokens, _, _) = wave.decoded(cfg, weights, segments, rows, most - 1, stop_ids)
        ends = np.isin(np.asarray(tokens), stop_ids)
        found["static"] = np.where(stopped, 1, np.where(ends.any(axis=0), ends.argmax(axis=0) + 2, most))

    def refill() -> None:
        segments, logits = wave.prefilled(cfg, weights, prompts)
        found["slots"], paid["slots"] = slots.rollout(
            cfg,
            weights,
            segments[0],
            logits,
            keys,
            slots=size["slots"],
            steps=size["steps"],
            room=most + size["steps"],
            stop_ids=stop_ids,
            most=most,
        )

    spent = turns({"wave": ours, "static": static, "slots": refill}, options.repeats)
    rates = {name: float(lengths.sum() / middle(each)) for name, each in spent.items()}
    ratio = {f"over {name}": rates["wave"] / rates[name] for name in ("static", "slots")}
    useful = float((lengths - 1).sum() / row_steps(lengths, sampler))
    same = {name: bool((each == lengths).all()) for name, each in found.items()}
    return line(
        "tail",
        rates["wave"],
        "tokens per CPU second, one thread",
        baseline={k: rates[k] for k in ("static", "slots")},
        ratio=ratio,
        spread=spread(spent["wave"]),
        lengths_as_forced=same,
        useful_row_steps=useful,
        row_steps_paid=paid | {"wave": row_steps(lengths, sampler)},
        goals={
            ">= 2.7 x static": ratio["over static"] >= 2.7,
            ">= 1.4 x slots with refill": ratio["over slots"] >= 1.4,
            "useful row-steps >= 0.65": useful >= 0.65,
            "all sides sample the forced lengths": all(same.values()),
        },
    )


def row_steps(lengths: np.ndarray, sampler: Any) -> int:
    """Row-steps that the wave pays for these lengths, by its own constants."""
    rows, clock, paid = len(lengths), 0, 0
    while (most := int((lengths > clock + 1).sum())) > 0:
        fits = sampler.rung(most, sampler.LEAST_ROWS)
        rows = fits if fits <= rows // sampler.LADDER else rows
        paid += rows * sampler.CHUNK
        clock += sampler.CHUNK
    return paid
