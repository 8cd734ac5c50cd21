"""Compares the losses of r1jax with TRL's: `python -m experiments.bench.trl_losses`. Needs trl and torch on the CPU.

TRL's own functions are called, in float64, on random log-probabilities, masks and advantages. Where the conventions
differ, the arguments are first translated, so that both sides compute the same formula. Prints a table of the
translations and of the largest relative differences in value and gradient. For SimPO and ORPO, the table has the
absolute difference of the values instead.
"""

from __future__ import annotations

import collections
import sys
from importlib.metadata import version
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax import losses

B, G, T, BUDGET = 3, 4, 9, 12
N = B * G
LOW, HIGH, BETA = 0.2, 0.28, 0.04


class Drawn(NamedTuple):
    """Random input in float64: log-probabilities [N, T] of four policies, mask [N, T] and advantages [N].

    N is the number of completions, and T the number of tokens in each. The four policies are the current policy, the
    old policy, the reference and the sampler.
    """

    logp: np.ndarray
    old: np.ndarray
    ref: np.ndarray
    sampler: np.ndarray
    mask: np.ndarray
    advantage: np.ndarray


class Row(NamedTuple):
    """A comparison of one loss of r1jax with the same loss of TRL.

    Attributes:
        name: name of the loss in the table.
        translated: how arguments were changed where the conventions of TRL and r1jax differ; "" if nothing was changed.
        loss: r1jax's loss, a key of `losses.LOSSES`.
        trl: TRL's settings.
        ours: r1jax's settings, which the function `ours` reads.
    """

    name: str
    translated: str
    loss: str
    trl: dict[str, Any]
    ours: dict[str, Any] = MappingProxyType({})


ROWS = (
    Row("GRPO", "", "grpo", {}),
    Row("Dr. GRPO", "", "dr_grpo", {"loss_type": "dr_grpo"}),
    Row("DAPO", "", "dapo", {"loss_type": "dapo"}),
    Row("GSPO", "", "sequence", {"importance_sampling_level": "sequence"}),
    Row(
        "CISPO",
        "epsilon_high = 1 + ε_high; ε = 10",
        "cispo",
        {"loss_type": "cispo", "epsilon_high": 1 + HIGH},
        {"low": 10.0},
    ),
    Row("dual clip", "delta = c", "grpo", {"delta": 1.5}, {"dual": 1.5}),
    Row("V3.2's KL", "", "grpo", {"use_bias_correction_kl": True}, {"kl": "unbiased"}),
    Row("V3.2's mask", "", "grpo", {"off_policy_mask_threshold": 0.05}, {"bound": 0.05}),
    Row(
        "entropy bonus",
        "token mean, so with DAPO's weights",
        "dapo",
        {"loss_type": "dapo", "entropy": 0.1},
        {"entropy": 0.1},
    ),
)


def draw(seed: int) -> Drawn:
    """Draws the random input of a comparison."""
    rng = np.random.default_rng(seed)
    four = -2 + 0.3 * rng.standard_normal((4, N, T))
    mask = np.arange(T) < rng.integers(1, T + 1, N)[:, None]
    return Drawn(*four, mask, rng.standard_normal(N))


def theirs(drawn: Drawn, settings: dict[str, Any]) -> tuple[float, np.ndarray]:
    """Returns the value of TRL's `GRPOTrainer._compute_loss`, and its gradient [N, T] with respect to log π.

    The trainer is replaced by an object that holds only its settings.
    """
    import torch
    from trl import GRPOTrainer

    settings = dict(settings)
    entropy = settings.pop("entropy", 0.0)
    logp = torch.tensor(drawn.logp, requires_grad=True)
    mask = torch.tensor(drawn.mask).double()
    args = SimpleNamespace(
        use_bias_correction_kl=settings.pop("use_bias_correction_kl", False),
        delta=settings.pop("delta", None),
        steps_per_generation=1,
    )
    same = SimpleNamespace(gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1, sync_gradients=True)
    trainer = SimpleNamespace(
        aux_loss_enabled=False,
        _entropy_bonus_enabled=entropy > 0,
        use_adaptive_entropy=False,
        entropy_coef=entropy,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        top_entropy_quantile=1.0,
        max_completion_length=BUDGET,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=same,
        args=args,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        _metrics={"train": collections.defaultdict(list)},
        # A stand-in for the entropy that depends on log π, so that its gradient shows.
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, -logp * 1.0, None),
        **dict(
            dict(loss_type="grpo", importance_sampling_level="token", beta=BETA, epsilon_low=LOW, epsilon_high=HIGH)
            | {"off_policy_mask_threshold": None}
            | settings
        ),
    )
    empty = torch.zeros((N, 1), dtype=torch.long)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros((N, T), dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor(drawn.advantage),
        "old_per_token_logps": torch.tensor(drawn.old),
        "sampling_per_token_logps": torch.tensor(drawn.sampler),
        "ref_per_token_logps": torch.tensor(drawn.ref),
        "num_items_in_batch": mask.sum(),
    }
    value = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    value.backward()
    return float(value.detach()), logp.grad.numpy()


def ours(drawn: Drawn, row: Row) -> tuple[float, np.ndarray]:
    """Returns the value of r1jax's loss, and its gradient [N, T] with respect to log π."""
    entry, how = losses.LOSSES[row.loss], row.ours
    lengths = drawn.mask.sum(-1).astype(float)
    sizes = dict(rows=N, tokens=int(lengths.sum()), max_tokens=BUDGET)
    weight = losses.row_weights(row.loss, lengths, lengths > 0, **sizes)[:, None] * drawn.mask
    logp, old, ref, sampler = (np.float32(x) for x in drawn[:4])
    advantage = np.float32(np.broadcast_to(drawn.advantage[:, None], drawn.mask.shape))
    number = np.zeros(drawn.mask.shape, np.int32)
    kept = (
        losses.off_policy_mask(logp, sampler, advantage, drawn.mask, number, how["bound"]) if "bound" in how else None
    )

    def loss(x: jax.Array) -> jax.Array:
        value, _ = losses.policy_loss(
            x,
            old,
            ref,
            advantage,
            np.float32(weight),
            clip_eps=how.get("low", LOW),
            clip_eps_high=HIGH,
            kl_coef=BETA,
            sequence=number if entry.by_completion else None,
            correction=kept,
            surrogate=losses.dual_clip(how["dual"]) if "dual" in how else entry.surrogate,
            kl=losses.KLS[how.get("kl", "k3")],
        )
        return value - how.get("entropy", 0.0) * (np.float32(weight) * -x).sum()

    value, slope = jax.value_and_grad(loss)(logp)
    return float(value), np.asarray(slope)


def pairs() -> list[tuple[str, str, float]]:
    """Compares the SimPO and ORPO losses of r1jax with TRL's.

    Returns (name, `translated` as in `Row`, absolute difference of the two values) for each loss.
    """
    import torch
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    rng = np.random.default_rng(0)
    win, lose = -0.1 - 2 * rng.random((2, 6))
    trainer = SimpleNamespace(
        beta=0.3,
        alpha=0.0,
        simpo_gamma=0.5,
        label_smoothing=0.0,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    tensors = [torch.tensor(x) for x in (win, lose)]
    simpo = CPOTrainer.cpo_loss(trainer, *tensors)[0].mean()
    orpo = (-tensors[0] - ORPOTrainer.odds_ratio_loss(trainer, *tensors)[0].double()).mean()
    here = [
        losses.simpo_loss(np.float32(win), np.float32(lose), beta=0.3, gamma=0.5)[0],
        losses.orpo_loss(np.float32(win), np.float32(lose), beta=0.3)[0],
    ]
    gaps = [abs(float(a) - float(b)) for a, b in zip((simpo, orpo), here, strict=True)]
    return [("SimPO", "", gaps[0]), ("ORPO", "its NLL is a token mean over the batch; here the same per pair", gaps[1])]


def main() -> None:
    """Prints the table. Exits with an error if a difference exceeds 1e-4."""
    jax.config.update("jax_platforms", "cpu")
    print(f"trl {version('trl')}, torch {version('torch')} float64; r1jax float32")
    print(f"{'loss':16}{'value':>10}{'gradient':>10}  translated")
    worst = 0.0
    for row in ROWS:
        gaps = []
        for seed in range(5):
            drawn = draw(seed)
            (a, slope_a), (b, slope_b) = theirs(drawn, row.trl), ours(drawn, row)
            gaps.append((abs(a - b) / max(abs(a), 1e-3), np.abs(slope_a - slope_b).max() / np.abs(slope_a).max()))
        value, slope = np.max(gaps, axis=0)
        worst = max(worst, value, slope)
        print(f"{row.name:16}{value:10.1e}{slope:10.1e}  {row.translated}")
    for name, translated, gap in pairs():
        worst = max(worst, gap)
        print(f"{name:16}{gap:10.1e}{'':10}  {translated}")
    if worst > 1e-4:
        sys.exit(f"a loss differs from TRL's by {worst:.1e}; at most 1e-4 is allowed")


if __name__ == "__main__":
    main()
