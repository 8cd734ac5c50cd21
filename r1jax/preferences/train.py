"""Trains a policy on pairs or labelled completions. This is the training loop of learning from preferences."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.distributed import beat
from r1jax.model import lora
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.model.lora import merge
from r1jax.preferences.data import Item, encode, micro_batches, read_items
from r1jax.preferences.objectives import PREFERENCES, PairBatch, Settings, preference_objective, score_pairs
from r1jax.preferences.recipe import PreferenceRecipe, check
from r1jax.recipes import RunOptions
from r1jax.reward_models.data import choose_items, describe_items
from r1jax.runs import manifests
from r1jax.runs.run import Run
from r1jax.runs.step_logger import Times
from r1jax.sharding import compute_dtype, fetch, rows_in_turn
from r1jax.training.logprobs import Network
from r1jax.training.optimizers import optimizer
from r1jax.training.step import Learner, start, update

SHOWN = {False: ("loss", "accuracy", "reward/margin"), True: ("loss", "reward/margin")}
AddReference = Callable[[list[PairBatch]], list[PairBatch]]


def train(recipe: PreferenceRecipe, options: RunOptions, data: str = "") -> Path:
    """Trains a policy on preferences. Returns the run's working directory.

    Args:
        recipe: the hyperparameters.
        options: flags of the run.
        data: a file of pairs or labelled completions; "" generates pairs, which a simulated annotator judges.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
        FloatingPointError: several updates in a row were not finite.
    """
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | {"data": data}
    defaults = manifests.defaults_of(recipe, options)
    with Run("dpo", options, fields, may_change={"data"}, defaults=defaults, has_report=False) as run:
        check(recipe, run.mesh)
        entry = PREFERENCES[recipe.loss]
        texts = read_items(data, entry.labelled, options.seed, (recipe.items, recipe.held_out_items))
        policy, params = run.load_policy(frozen=recipe.lora_rank > 0)
        items, held_out = (encode(some, policy, recipe.max_tokens) for some in texts)
        run.claim(describe_items(*texts, len(items), [data] if data else []), "preferences")
        adapters = (recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
        params, frozen = lora.prepare(params, *adapters, run.mesh, options.seed)
        steps = recipe.epochs * -(-len(items) // recipe.batch_items)
        learner = make_learner(recipe, policy.cfg, run.mesh, steps)
        find = make_reference(recipe, learner.network, params, frozen, run.mesh)
        state = run.restore(lambda p: start(learner, p), params)
        if state is not None and run.is_complete(steps):
            return run.workdir
        known = {id(some): find(some) for some in (items, held_out)} if find else {}
        add = add_each(recipe, learner.network, params, frozen)
        state = state or start(learner, params, run.mesh)
        del find, params  # the update donates them, and a restored state has its own
        run.begin(
            policy, steps, shown=SHOWN[entry.labelled], detail=f"{len(items)} items", keep=lambda: run.save(state)
        )

        def batches(some: Sequence[Item], chosen: Sequence[int]) -> list[PairBatch]:
            return micro_batches(some, chosen, recipe.batch_rows, run.mesh, known.get(id(some)))

        def evaluate() -> dict:
            parts = [
                measure(learner, merge(state.params, frozen), batch, len(chosen) / len(held_out))
                for chosen in split(len(held_out), recipe.batch_items)
                for batch in add(batches(held_out, chosen))
            ]
            return finish_figures({name: float(sum(part[name] for part in parts)) for name in parts[0]})

        if run.owes_evaluation:
            run.evaluate(evaluate, SHOWN[entry.labelled])
        while run.step < run.steps:
            batch = add(batches(items, choose_items(len(items), run.step, recipe.batch_items, options.seed)))
            ready = run.watch(batch)
            state, figures = update(learner, state, batch, frozen)
            run.log(figures, describe, ready, batch)
            if run.step == run.steps:
                run.evaluate(evaluate, SHOWN[entry.labelled])
            if run.due(recipe.save_every, at_stop=True):
                run.save(state)
            run.stop_if_asked()
        return run.finish()


def make_learner(recipe: PreferenceRecipe, cfg: ModelConfig, mesh: Mesh, steps: int) -> Learner:
    """Returns the `Learner` of a recipe: its network, optimizer and loss.

    Args:
        steps: number of optimizer steps of the run.
    """
    r, attention = recipe, attention_backend(mesh, cfg)
    network = Network(
        cfg,
        dtype=compute_dtype(mesh),
        remat=r.remat,
        row_shards=rows_in_turn(mesh),
        attention=attention,
        mesh=mesh,
    )
    settings = Settings(r.beta, r.label_smoothing, r.gamma, r.undesirable_weight)
    return Learner(network, optimizer(r.descent(steps)), preference_objective(r.loss, settings))


def make_reference(
    recipe: PreferenceRecipe, network: Network, params: dict, frozen: dict | None, mesh: Mesh
) -> Callable[[Sequence[Item]], np.ndarray] | None:
    """Returns a function that computes Σ log π_ref of both completions of each of N items, [N, 2].

    The function is called before the first step. Instead of a function, returns None if the loss has no reference
    policy, or if --reference=each computes the sums at every step. Also returns None if the loss learns from labelled
    completions. A row then holds the completion of its item and that of another item. The other item differs from step
    to step, so the sums cannot be computed in advance.

    Args:
        params, frozen: trained and frozen parameters (`lora.partition`) that the run starts from; together they are
            the reference policy.
    """
    entry = PREFERENCES[recipe.loss]
    if not entry.referenced or entry.labelled or recipe.reference == "each":
        return None
    whole = merge(params, frozen)

    def find(items: Sequence[Item]) -> np.ndarray:
        found = np.zeros((len(items), 2), np.float32)
        for chosen in split(len(items), recipe.batch_rows):
            beat("reference")
            (batch,) = micro_batches(items, chosen, recipe.batch_rows, mesh)
            order = sorted(chosen, key=lambda i: len(items[i].prompt) + sum(map(len, items[i].completions)))
            found[order] = fetch(score_pairs(network, whole, batch.rows))[: len(chosen)]
        return found

    return find


def add_each(recipe: PreferenceRecipe, network: Network, params: dict, frozen: dict | None) -> AddReference:
    """Returns a function that sets `PairBatch.reference` of micro-batches to Σ log π_ref of both completions.

    If the loss has no reference policy, or if `make_reference` computes the sums, the returned function changes
    nothing. Otherwise the reference policy is a copy of `params`, the trained parameters at the start of the run,
    together with `frozen`. With LoRA the copy holds the new adapters, which leave the base model's output unchanged.
    """
    entry = PREFERENCES[recipe.loss]
    if not entry.referenced or (recipe.reference == "once" and not entry.labelled):
        return lambda batches: batches
    first = jax.tree.map(jnp.copy, params)

    def add(batches: list[PairBatch]) -> list[PairBatch]:
        return [b._replace(reference=score_pairs(network, merge(first, frozen), b.rows)) for b in batches]

    return add


def split(count: int, size: int) -> list[list[int]]:
    """Returns the indices 0 to count − 1, split into lists of at most `size` consecutive indices."""
    return [list(range(first, min(first + size, count))) for first in range(0, count, size)]


@functools.partial(jax.jit, static_argnames=("learner",))
def measure(learner: Learner, params: dict, batch: PairBatch, share: float) -> dict[str, jax.Array]:
    """Returns the loss and the metrics of a micro-batch, each multiplied by `share`.

    The held-out items are divided into batches, and each batch into micro-batches. The sum of the results over all
    micro-batches is the mean over the held-out items.

    Args:
        params: all parameters of the model.
        batch: a micro-batch.
        share: number of items in the batch that contains the micro-batch, divided by the number of held-out items.
    """
    loss, figures = learner.forward(params, batch)
    return {name: value * share for name, value in (figures | {"loss": loss}).items()}


def describe(figures: Mapping[str, float], times: Times) -> dict:
    """Returns a step's line for metrics.jsonl: the metrics of `finish_figures` and the step's seconds."""
    return finish_figures(figures) | {"perf/step_s": times.seconds}


def finish_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Computes the metrics to log from the metrics of the loss, which were summed over the micro-batches.

    For labelled items, "reward/chosen" is the mean reward of the desirable completions, "reward/rejected" that of the
    undesirable ones, and "reward/margin" their difference. A mean over no completions is 0.
    """
    line = {name: value for name, value in figures.items() if name not in ("weight", "desirable")}
    if "desirable" in figures:
        good = figures["desirable"]
        line["reward/chosen"] = figures["reward/chosen"] / good if good else 0.0
        line["reward/rejected"] = figures["reward/rejected"] / (1 - good) if good < 1 else 0.0
        line["reward/margin"] = line["reward/chosen"] - line["reward/rejected"]
    return line
