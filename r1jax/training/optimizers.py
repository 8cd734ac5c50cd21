"""Makes optimizers. Results are cached: equal settings give the same optimizer, whose compiled updates are shared."""

from __future__ import annotations

import functools

import jax
import optax

from r1jax.recipes import Descent, require

SCHEDULES = ("constant", "cosine", "linear", "wsd")
NOT_DECAYED = ("scale", "bias")  # last names of the parameters that --decay=matrices leaves out


def check(descent: Descent) -> None:
    """Raises ValueError if a setting of the optimizer is unknown, or if two settings cannot be combined."""
    d = descent
    require(
        (
            (d.optimizer in ("adamw", "muon"), f"--optimizer={d.optimizer} is unknown: use adamw or muon"),
            (d.schedule in SCHEDULES, f"--schedule={d.schedule} must be one of {', '.join(SCHEDULES)}"),
            (d.decay in ("all", "matrices"), f"--decay={d.decay} must be all or matrices"),
            (
                d.decay == "all" or d.weight_decay > 0,
                f"--decay={d.decay} does nothing with --weight-decay={d.weight_decay}: raise --weight-decay, such as "
                "to 0.1, or use --decay=all",
            ),
            (
                d.decay_steps == 0 or (d.schedule == "wsd" and 0 < d.decay_steps <= d.steps - d.warmup_steps),
                f"--decay-steps={d.decay_steps} must be 0, or, with --schedule=wsd, at most "
                f"{d.steps - d.warmup_steps}, the number of steps after warm-up; --schedule is {d.schedule}",
            ),
            (
                d.schedule == "constant" or d.steps > d.warmup_steps,
                f"--warmup-steps={d.warmup_steps} leaves nothing of {d.steps} steps for --schedule={d.schedule}: "
                "lower --warmup-steps",
            ),
        )
    )


@functools.cache
def optimizer(descent: Descent) -> optax.GradientTransformation:
    """Returns AdamW or Muon with gradient clipping, a linear warm-up and a schedule. The result is cached.

    Args:
        descent: name of the optimizer, learning rates, numbers of steps, weight decay and clipping.

    Raises:
        ValueError: a setting is unknown, or two settings cannot be combined.
    """
    check(descent)
    d, rate = descent, learning_rate(descent)
    if d.optimizer == "adamw":
        mask = {"mask": decayed} if d.decay == "matrices" else {}
        inner = optax.adamw(rate, b1=d.adam_b1, b2=d.adam_b2, weight_decay=d.weight_decay, **mask)
    else:
        inner = optax.contrib.muon(
            rate,
            adam_learning_rate=(lambda step: 0.6 * rate(step)) if callable(rate) else 0.6 * rate,
            weight_decay=d.weight_decay,
            weight_decay_mask=decayed if d.decay == "matrices" else None,
            consistent_rms=0.2,
            adam_b2=d.adam_b2,
            muon_weight_dimension_numbers=matrices,
        )
    return optax.chain(optax.clip_by_global_norm(d.grad_clip), inner)


@functools.cache
def hold(inner: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """Returns an optimizer that changes no parameter in its first `steps` steps, while its moments build up. The result
    is cached.

    Args:
        inner: the optimizer that changes the parameters after these steps.
        steps: number of steps; 0 returns `inner`.
    """
    return optax.chain(inner, optax.scale_by_schedule(lambda step: 1.0 * (step >= steps))) if steps else inner


def learning_rate(descent: Descent) -> float | optax.Schedule:
    """Returns the learning rate: a number if it is constant from the first step on, otherwise a function of the step.

    Source: Hu et al. 2024 (MiniCPM), section 4, for "wsd" (warm-up, stable, decay). Here the decay is linear.
    """
    d = descent
    if d.schedule == "constant":
        return optax.linear_schedule(0.0, d.learning_rate, d.warmup_steps) if d.warmup_steps else d.learning_rate
    if d.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, d.learning_rate, d.warmup_steps, d.steps, d.final_learning_rate)
    left = d.steps - d.warmup_steps
    falling = left if d.schedule == "linear" else d.decay_steps or max(1, d.steps // 10)
    start = d.steps - falling
    up = optax.linear_schedule(0.0, d.learning_rate, d.warmup_steps) if d.warmup_steps else None
    flat = optax.constant_schedule(d.learning_rate)
    down = optax.linear_schedule(d.learning_rate, d.final_learning_rate, falling)
    parts = [(0, up)] * bool(d.warmup_steps) + [(d.warmup_steps, flat)] * (start > d.warmup_steps) + [(start, down)]
    return optax.join_schedules([part for _, part in parts], [at for at, _ in parts[1:]])


def decayed(params: dict) -> dict:
    """Returns a tree of bools like `params`: True for a parameter that --decay=matrices decays, False for norms and
    biases.
    """

    def leaf(path: tuple, x: jax.Array) -> bool:
        return not jax.tree_util.keystr(path, simple=True, separator="/").endswith(NOT_DECAYED)

    return jax.tree_util.tree_map_with_path(leaf, params)


def matrices(params: dict) -> dict:
    """Returns a tree like `params` that tells Muon which axes of each layer kernel are inputs and which are outputs.

    All other parameters get None: Optax's Muon updates them by AdamW.
    """

    def leaf(path: tuple, x: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("kernel") or not name.startswith("layers"):
            return None
        if name.endswith("o/kernel"):
            return optax.contrib.MuonDimensionNumbers((1, 2), (3,))
        return optax.contrib.MuonDimensionNumbers((1,), tuple(range(2, x.ndim)))

    return jax.tree_util.tree_map_with_path(leaf, params)
