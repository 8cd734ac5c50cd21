"""Benchmark C3: speed of a rollout with a long tail, compared with a static batch and with continuous batching.

The rollout and both baselines use the same layers. There are 4 prompts with 16 rows (completions) each. The lengths of
the rows are fixed in advance: lognormal, with mean 48 and maximum 192. The model gives all tokens the same probability,
so the random key of a row alone decides where the row stops. Each row gets a key that stops it at its length. So
r1jax's rollout function, `sample`, needs no change to produce these lengths. The static batch has a cache of full
length, and decodes all rows until the longest row has ended. Continuous batching refills its 16 slots every 16 steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {
    "full": dict(prompts=4, group=16, prompt=48, mean=48, most=192, slots=16, steps=16),
    "toy": dict(prompts=2, group=4, prompt=8, mean=6, most=24, slots=4, steps=4),
}


def measure(options: Options) -> dict[str, Any]:
    """Measures tokens per second of a rollout with a long tail (benchmark C3). Returns the benchmark's JSON line.

    `ratio` holds two quotients: the speed of `sample` divided by the speed of a static batch, and divided by the speed
    of continuous batching.
    """
    from experiments.bench import slots, wave
    from experiments.bench.shapes import MODELS, long_tailed, random_prompts
    from r1jax.sampling import sampler
    from r1jax.sharding import make_mesh

    size = SIZES[options.size]
    cfg, weights, stop_ids = wave.make_forced(MODELS[options.size])
    most, mesh = size["most"], make_mesh("1x1")
    lengths = long_tailed(size["prompts"] * size["group"], size["mean"], most)
    keys = wave.forcing_keys(cfg, lengths, most)
    prompts = random_prompts(cfg, size["prompts"], size["prompt"])
    found: dict[str, np.ndarray] = {}
    paid: dict[str, int] = {"static": len(lengths) * (most - 1)}

    def ours() -> None:
        rollout = sampler.sample(cfg, weights, prompts, keys, mesh, sampler.Sampling(most, stop_ids=stop_ids))
        found["wave"] = rollout.lengths

    def static() -> None:
        segments, logits = wave.prefill_prompts(cfg, weights, prompts)
        rows = wave.begin_rows(cfg, logits, keys, size["prompt"], most, stop_ids)
        stopped = np.asarray(rows.done)
        _, (tokens, _, _) = wave.decode_steps(cfg, weights, segments, rows, most - 1, stop_ids)
        ends = np.isin(np.asarray(tokens), stop_ids)
        found["static"] = np.where(stopped, 1, np.where(ends.any(axis=0), ends.argmax(axis=0) + 2, most))

    def refill() -> None:
        segments, logits = wave.prefill_prompts(cfg, weights, prompts)
        room = slots.Size(size["slots"], size["steps"], most + size["steps"], most)
        found["slots"], paid["slots"] = slots.rollout(cfg, weights, segments[0], logits, keys, stop_ids, room)

    spent = time_in_turn({"wave": ours, "static": static, "slots": refill}, options.repeats)
    rates = {name: float(lengths.sum() / middle(each)) for name, each in spent.items()}
    ratio = {f"over {name}": rates["wave"] / rates[name] for name in ("static", "slots")}
    useful = float((lengths - 1).sum() / row_steps(lengths))
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
        row_steps_paid=paid | {"wave": row_steps(lengths)},
        goals={
            ">= 2.7 x static": ratio["over static"] >= 2.7,
            ">= 1.4 x slots with refill": ratio["over slots"] >= 1.4,
            "useful row-steps >= 0.65": useful >= 0.65,
            "all sides sample the forced lengths": all(same.values()),
        },
    )


def row_steps(lengths: np.ndarray) -> int:
    """Returns how many row-steps `sample` computes for these completion lengths.

    A row-step is one decoding step of one row.

    The result depends on the default `sampler.Sizes`: on the steps of a chunk, and on the batch sizes for which a
    program is compiled.
    """
    from r1jax.model.buckets import LADDER, rung
    from r1jax.sampling.sampler import Sizes

    rows, clock, paid, sizes = len(lengths), 0, 0, Sizes()
    while (most := int((lengths > clock + 1).sum())) > 0:
        fits = rung(most, sizes.least_rows)
        rows = fits if fits <= rows // LADDER else rows
        paid += rows * sizes.chunk
        clock += sizes.chunk
    return paid
