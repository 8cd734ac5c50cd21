"""Trains a reward model on judged replies, then calibrates the model on held-out replies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.recipes import RewardRecipe, RunOptions, require
from r1jax.reward_models.data import choose_items, describe_items, judgements, micro_batches, select_fitting
from r1jax.reward_models.measure import measure_model
from r1jax.reward_models.model import RewardModel, judged_loss, pairwise, pointwise, with_head
from r1jax.reward_models.preference_files import KINDS
from r1jax.runs import manifests
from r1jax.runs.run import Run
from r1jax.runs.step_logger import Times
from r1jax.sharding import compute_dtype, row_shards, rows_in_turn
from r1jax.training.logprobs import Network
from r1jax.training.optimizers import optimizer
from r1jax.training.step import Learner, start, update

LOSS = {"helpful": judged_loss(pairwise), "safety": judged_loss(pointwise)}


def check(recipe: RewardRecipe, kind: str, mesh: Mesh) -> None:
    """Raises ValueError if a flag has a value that cannot be used. A run calls this before it loads anything.

    Args:
        kind: "helpful" or "safety"; see `train`.
    """
    rules = (
        (kind in KINDS, f"--kind={kind} must be {' or '.join(KINDS)}"),
        (recipe.epochs >= 1, f"--epochs={recipe.epochs} must be at least 1"),
        (recipe.batch_items >= 1, f"--batch-items={recipe.batch_items} must be at least 1"),
        (
            recipe.batch_rows % 2 == 0,
            f"--batch-rows={recipe.batch_rows} must be even: a micro-batch holds both texts of a pair",
        ),
        (
            recipe.batch_rows > 0 and recipe.batch_rows % row_shards(mesh) == 0,
            f"--batch-rows={recipe.batch_rows} must be a multiple of the {row_shards(mesh)} row shards of --mesh",
        ),
        (recipe.items >= 1, f"--items={recipe.items} must be at least 1"),
        (recipe.held_out_items >= 1, f"--held-out-items={recipe.held_out_items} must be at least 1"),
    )
    require(rules)


def train(recipe: RewardRecipe, options: RunOptions, kind: str, data: str = "", sampled: str = "") -> Path:
    """Trains one reward model. Returns its working directory.

    Args:
        recipe: the hyperparameters.
        options: flags of the run.
        kind: "helpful" trains on pairs of a better and a worse response, "safety" on responses labelled safe or unsafe.
        data: a file of judged responses. If "", the nano annotator (a program) judges generated responses instead.
        sampled: a file of replies, written by experiments.generate, that the nano annotator also judges; "" for none.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
        FloatingPointError: several updates in a row were not finite.
    """
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | {"kind": kind, "data": data, "sampled": sampled}
    defaults = manifests.defaults_of(recipe, options)
    stage = f"reward_model_{kind}"
    with Run(stage, options, fields, may_change={"data", "sampled"}, defaults=defaults, has_report=False) as run:
        check(recipe, kind, run.mesh)
        items, held_out = judgements(kind, options.seed, (recipe.items, recipe.held_out_items), data, sampled)
        policy, params = run.load_policy(rewards=True)
        tokens, labels = select_fitting(items, kind, policy.tokenizer, recipe.max_tokens)
        run.claim(
            describe_items(items, held_out, len(tokens), [path for path in (data, sampled) if path]), "judgements"
        )
        cfg, params = with_head(policy.cfg, params, run.mesh)
        policy = policy._replace(cfg=cfg)
        learner = make_learner(recipe, kind, cfg, run.mesh)
        steps = recipe.epochs * -(-len(tokens) // recipe.batch_items)
        state = run.restore(lambda p: start(learner, p), params)
        if state is None:
            state = start(learner, params, run.mesh)
        if run.is_complete(steps):
            return run.workdir
        detail = f"{len(tokens)} items"
        run.begin(policy, steps, shown=("loss", "accuracy"), detail=detail, keep=lambda: run.save(state))

        def evaluate() -> dict:
            return measure_model(kind, RewardModel(cfg, state.params, policy.tokenizer), held_out, run.mesh)

        def describe(figures: dict[str, float], times: Times) -> dict:
            return figures | {"perf/step_s": times.seconds}

        while run.step < run.steps:
            chosen = choose_items(len(tokens), run.step, recipe.batch_items, options.seed)
            batch = micro_batches(tokens, labels, chosen, recipe.batch_rows, run.mesh)
            ready = run.watch(batch)
            state, figures = update(learner, state, batch)
            run.log(figures, describe, ready, batch)
            if run.step == run.steps:
                run.evaluate(evaluate)
            if run.due(recipe.save_every, at_stop=True):
                run.save(state)
            run.stop_if_asked()
        return run.finish()


def make_learner(recipe: RewardRecipe, kind: str, cfg: ModelConfig, mesh: Mesh) -> Learner:
    """Makes the network, optimizer and loss of a recipe. `kind`, "helpful" or "safety", chooses the loss."""
    r = recipe
    network = Network(
        cfg,
        dtype=compute_dtype(mesh),
        remat=r.remat,
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg),
        mesh=mesh,
    )
    return Learner(network, optimizer(r.descent), LOSS[kind])
