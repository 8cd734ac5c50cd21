"""Defines and checks the hyperparameters of learning from preferences."""

from __future__ import annotations

import dataclasses

from jax.sharding import Mesh

from r1jax.model.lora import TARGETS
from r1jax.preferences.objectives import PREFERENCES
from r1jax.recipes import Descent, require
from r1jax.sharding import row_shards
from r1jax.training import optimizers


@dataclasses.dataclass(frozen=True)
class PreferenceRecipe:
    """Hyperparameters of learning from preferences. Each field is a flag."""

    loss: str
    """dpo, ipo, orpo or simpo, which learn from pairs, or kto, which learns from labelled completions."""
    beta: float
    """β of DPO, KTO and SimPO; τ of IPO; λ of ORPO."""
    epochs: int
    """Passes over the training items."""
    batch_items: int
    """Pairs, or labelled completions, in one step."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    final_learning_rate: float
    """Learning rate at the last step, reached by --schedule."""
    warmup_steps: int
    """Steps of linear warm-up."""
    schedule: str
    """Learning rate after the warm-up: constant keeps it; cosine, linear and wsd take it to --final-learning-rate."""
    grad_clip: float
    """Gradients are clipped to this global norm."""
    max_tokens: int
    """Maximum length of an item, in tokens: the prompt and both completions of a pair, or the prompt and the completion
    of a labelled item. Longer items are left out."""
    batch_rows: int
    """Items of one micro-batch: a multiple of the mesh's row shards (data·fsdp·expert of --mesh)."""
    remat: str
    """What the backward pass recomputes: none (nothing), dots (all but attention and products with weights) or full
    (all but attention)."""
    items: int
    """Pairs to take from the nano annotator, which is simulated, if --data names no file. A dry run assumes
    this number of pairs."""
    held_out_items: int
    """Number of items (without --data: pairs) held out for evaluation. Of a file, at most a fifth of the items is held
    out, but at least one whole problem. The items of one problem stay together."""
    save_every: int
    """Steps between two checkpoints. 0: save only the last step, which is always saved."""
    label_smoothing: float = 0.0
    """Probability that the order of a pair is wrong. Only for --loss=dpo."""
    gamma: float = 0.0
    """Margin by which SimPO wants the chosen completion to lead. Only for --loss=simpo."""
    undesirable_weight: float = 1.0
    """Weight of an undesirable completion; a desirable one has weight 1. Only for --loss=kto."""
    reference: str = "once"
    """When the reference's log-probabilities are computed: `once`, before the first step; or `each`, at every step,
    which keeps a copy of the initial parameters in memory."""
    optimizer: str = "adamw"
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer."""
    decay: str = "all"
    """Which parameters --weight-decay decays: all, or matrices, which leaves out norms and biases."""
    decay_steps: int = 0
    """Last steps over which --schedule=wsd lowers the learning rate. 0: a tenth of the steps."""
    lora_rank: int = 0
    """Rank of the LoRA adapters, which are trained in place of the parameters. 0 trains the parameters."""
    lora_alpha: float = 32.0
    """LoRA's alpha: the scale of the adapters is alpha / rank."""
    lora_targets: str = TARGETS
    """Regular expression over parameter paths. The matrices whose path matches get an adapter."""

    def descent(self, steps: int) -> Descent:
        """Returns the optimizer's hyperparameters for a run of `steps` steps."""
        return Descent(
            self.optimizer,
            self.learning_rate,
            self.final_learning_rate,
            self.warmup_steps,
            0 if self.schedule == "constant" else steps,
            self.weight_decay,
            self.grad_clip,
            self.schedule,
            self.decay_steps,
            self.decay,
        )


def check(recipe: PreferenceRecipe, mesh: Mesh) -> None:
    """Raises ValueError if a flag has a value that cannot be used. A run calls this function first of all."""
    r, shards = recipe, row_shards(mesh)
    require(
        (
            (r.loss in PREFERENCES, f"--loss={r.loss} must be one of {', '.join(PREFERENCES)}"),
            (r.beta > 0, f"--beta={r.beta} must be above 0, such as 0.1"),
            (r.epochs >= 1, f"--epochs={r.epochs} must be at least 1"),
            (r.batch_items >= 1, f"--batch-items={r.batch_items} must be at least 1"),
            (
                r.loss != "kto" or r.batch_items >= 2,
                f"--batch-items={r.batch_items} must be at least 2 for kto, which compares items with each other",
            ),
            (
                r.batch_rows > 0 and r.batch_rows % shards == 0,
                f"--batch-rows={r.batch_rows} must be a multiple of the {shards} row shards of --mesh",
            ),
            (r.items >= 1, f"--items={r.items} must be at least 1"),
            (r.held_out_items >= 1, f"--held-out-items={r.held_out_items} must be at least 1"),
            (r.reference in ("once", "each"), f"--reference={r.reference} must be once or each"),
            (
                0 <= r.label_smoothing < 0.5 and (not r.label_smoothing or r.loss == "dpo"),
                f"--label-smoothing={r.label_smoothing} must be 0 or more and below 0.5, and is for --loss=dpo: "
                "leave it at 0 for other losses",
            ),
            (r.gamma == 0 or r.loss == "simpo", f"--gamma={r.gamma} is for --loss=simpo, not {r.loss}: leave it at 0"),
            (
                r.undesirable_weight > 0 and (r.undesirable_weight == 1 or r.loss == "kto"),
                f"--undesirable-weight={r.undesirable_weight} must be above 0, and is for --loss=kto: leave it at 1 "
                "for other losses",
            ),
            (r.lora_rank >= 0, f"--lora-rank={r.lora_rank} must be 0, to train every parameter, or more"),
        )
    )
    optimizers.check(r.descent(steps=r.warmup_steps + max(r.decay_steps, 1)))
