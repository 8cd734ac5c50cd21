"""One round of reinforcement learning: sampled, scored, compared, packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import sampler
from r1jax.data import prompts as questions
from r1jax.grpo import group_advantages, row_weights
from r1jax.model.attend_choice import attention_backend
from r1jax.prompts import fill
from r1jax.recipe import RLRecipe
from r1jax.rewards import rule
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.format import THINK
from r1jax.rewards.isolate import Pool
from r1jax.rollout import Minibatch, PackedRows, Rollout, pack, spread, spread_routes
from r1jax.run import Policy
from r1jax.sharding import row_shards, shard_rows
from r1jax.update import Learner, score


class Round(NamedTuple):
    """One round of this process's questions, on the host: N = B·G rows, question-major.

    Attributes:
        asked: [B] the round each question was asked in, where groups may wait (see `carry`).
        waiting: groups that wait at its end.
        drawn: lengths of what its wave read and sampled, where they are not the rollout's.
    """

    examples: list[dict]
    rollout: Rollout
    texts: list[str]
    scores: rule.Scores
    advantages: np.ndarray
    asked: np.ndarray | None = None
    waiting: int = 0
    drawn: tuple[np.ndarray, np.ndarray] | None = None


def complete(
    policy: Policy, weights: sampler.Weights, examples: Sequence[Mapping], samples: int, mesh: Mesh, *,
    seed: int, round_: int | np.ndarray, temperature: float, max_tokens: int, replay: bool = False,
    top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0,
    finished: Callable[[list[tuple[int, str]]], None] | None = None, attention: str | None = None,
    before: Rollout | None = None, leave: int = 0,
) -> tuple[Rollout, list[str]]:
    """`samples` completions of each example, and their texts; the cuts are for evaluation.

    A text begins with the tag of its chain of thought where its prompt ends in it, as every reader expects.

    Args:
        round_: the noise is of; [B] where examples differ in it.
        finished: hears of (row, text) as rows end, see `sampler.sample`.
        before: what the first examples have already; its prompts are theirs.
        attention, leave: see `sampler.sample`.
    """  # fmt: skip
    tokenizer = policy.tokenizer
    asked = [fill(policy.template, example["problem"]) for example in examples]
    prompts = [tokenizer.encode(text) for text in asked]
    begun = [THINK if text.rstrip().endswith(THINK) else "" for text in asked]
    ids = np.repeat([questions.number(example) for example in examples], samples)
    rounds = np.repeat(np.broadcast_to(round_, len(examples)), samples)
    keys = sampler.row_keys(seed, rounds, ids, np.tile(np.arange(samples), len(examples)))
    texts, old = [""] * len(ids), 0
    if before is not None:
        old = len(before.lengths) // samples
        before = before._replace(prompts=prompts[:old])
        texts[: old * samples] = [
            begun[i // samples] + tokenizer.decode(row[:length])
            for i, (row, length) in enumerate(zip(before.tokens, before.lengths, strict=True))
        ]

    def ended(rows: list[tuple[int, np.ndarray]]) -> None:
        for row, tokens in rows:
            texts[row] = begun[row // samples] + tokenizer.decode(tokens)
        if finished:
            finished([(row, texts[row]) for row, _ in rows])

    rollout = sampler.sample(
        policy.cfg, weights, prompts[old:], keys, mesh,
        max_tokens=max_tokens, temperature=temperature, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id,
        replay=replay, top_k=top_k, top_p=top_p, min_p=min_p, finished=ended, attention=attention,
        before=before, leave=leave,
    )  # fmt: skip
    return rollout, texts


Scorer = tuple[Learner, dict]  # how log-probabilities are taken, and under which parameters


class Reward(Protocol):
    """What the completions of a round earn; `step` is the optimizer step the round begins at."""

    def __call__(
        self, pool: Pool | Ahead, texts: Sequence[str], examples: Sequence[Mapping], step: int
    ) -> rule.Scores: ...


def rule_reward(recipe: RLRecipe, policy: Policy) -> Reward:
    """Accuracy, format and language consistency, weighted as the recipe says."""
    weights = {"accuracy": recipe.accuracy_weight, "format": recipe.format_weight, "language": recipe.language_weight}

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        return rule.score(pool, texts, examples, weights, policy.style)

    return reward


def sampled(
    recipe: RLRecipe, policy: Policy, params: dict, examples: list[dict], round_: int | np.ndarray, seed: int,
    mesh: Mesh, pool: Pool, before: Rollout | None = None,
) -> tuple[Rollout, list[str], Ahead]:
    """A round's completions. Their answers are judged while other rows are still being sampled.

    Args:
        round_, before: see `complete`.
    """  # fmt: skip
    weights, ahead = sampler.sync(params, mesh), Ahead(pool)
    repeated = [example for example in examples for _ in range(recipe.group_size)]

    def judge(rows: list[tuple[int, str]]) -> None:
        jobs = [rule.accuracy_job(text, repeated[row], policy.style) for row, text in rows]
        ahead.begin([job for job in jobs if job is not None])

    rollout, texts = complete(
        policy, weights, examples, recipe.group_size, mesh,
        seed=seed, round_=round_, temperature=recipe.temperature, max_tokens=recipe.max_tokens,
        replay=recipe.replay_routes, finished=judge, attention=attention_backend(mesh, policy.cfg, compared=True),
        before=before, leave=recipe.carry_over,
    )  # fmt: skip
    return rollout, texts, ahead


def roll(
    recipe: RLRecipe, policy: Policy, params: dict, examples: list[dict], round_: int, seed: int, mesh: Mesh,
    pool: Pool, reward: Reward,
) -> Round:
    """Samples, scores and compares one round."""  # fmt: skip
    rollout, texts, ahead = sampled(recipe, policy, params, examples, round_, seed, mesh, pool)
    return compared(recipe, examples, rollout, texts, reward, ahead, round_ * recipe.minibatches)


def compared(
    recipe: RLRecipe, examples: list[dict], rollout: Rollout, texts: list[str], reward: Reward, pool: Pool | Ahead,
    step: int,
) -> Round:
    """A round of whole groups: what each row earned, and its advantage over its group."""  # fmt: skip
    scores = reward(pool, texts, [example for example in examples for _ in range(recipe.group_size)], step)
    total, valid = (x.reshape(len(examples), recipe.group_size) for x in (scores.total, scores.valid))
    advantages = np.asarray(group_advantages(total, valid, scaled=recipe.loss != "dr_grpo")).reshape(-1)
    return Round(examples, rollout, texts, scores, advantages)


def members(groups: np.ndarray, size: int) -> np.ndarray:
    """The rows of some groups, in order."""
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def parts(recipe: RLRecipe, groups: int) -> list[np.ndarray]:
    """The rows of each optimizer step of a round: whole groups, shared out as evenly as they go."""
    return [members(part, recipe.group_size) for part in np.array_split(np.arange(groups), recipe.minibatches)]


def moving(recipe: RLRecipe, advantages: np.ndarray) -> np.ndarray:
    """The rows an update goes over: not those of zero advantage, where nothing else of them could move the policy."""
    return (advantages != 0) | (recipe.kl_coef != 0) | (recipe.balance_rate != 0)


def minibatches(
    recipe: RLRecipe, round_: Round, ours: Learner, params: dict, reference: Scorer, mesh: Mesh
) -> list[list[Minibatch]]:
    """The round split by whole groups: for each optimizer step its micro-batches on the mesh.

    Every old log-probability is the trainer's under `params`: taken here for all minibatches but the first, whose own
    forward pass is under `params` still.
    """
    return [
        micro_batches(recipe, round_, rows, ours, params, reference, mesh, first=i == 0)
        for i, rows in enumerate(parts(recipe, len(round_.examples)))
    ]


def micro_batches(
    recipe: RLRecipe, round_: Round, members: np.ndarray, ours: Learner, params: dict, reference: Scorer, mesh: Mesh,
    *, first: bool,
) -> list[Minibatch]:
    """One optimizer step's rows, packed, weighted and scored.

    Rows left out (see `moving`) count in the normaliser all the same.
    """  # fmt: skip
    rollout, valid = round_.rollout, round_.scores.valid[members]
    lengths = rollout.lengths[members].astype(np.float64)
    count, tokens = (sampler.agreed(int(x), sum) for x in (valid.sum(), lengths[valid].sum()))
    # In float64 from the whole minibatch: micro-batches, packing, shards and rows left out change nothing.
    weight = row_weights(recipe.loss, lengths, valid, rows=count, tokens=tokens, max_tokens=recipe.max_tokens)
    seen = moving(recipe, round_.advantages[members])
    members, weight = members[seen], weight[seen]
    of = [(int(i) // recipe.group_size, int(i)) for i in members]
    completions = [(prompt, rollout.tokens[i, : rollout.lengths[i]]) for prompt, i in of]
    rows, places = pack(rollout.prompts, completions, recipe.row_length)
    if recipe.replay_routes:
        rows = rows._replace(routes=spread_routes(rollout, of, rows, places))
    shape = rows.tokens.shape
    per_token = {
        "weight": [np.full(rollout.lengths[i], w) for i, w in zip(members, weight, strict=True)],
        "advantage": [np.full(rollout.lengths[i], round_.advantages[i]) for i in members],
        "rollout_logp": [rollout.logp[i, : rollout.lengths[i]] for i in members],
    }
    arrays = {name: spread(values, places, shape) for name, values in per_token.items()}
    size = max(recipe.batch_rows, row_shards(mesh)) // jax.process_count()
    total = max(sampler.agreed(-(-shape[0] // size)), 1) * size
    rows, arrays = jax.tree.map(
        lambda x: np.pad(x, [(0, total - x.shape[0])] + [(0, 0)] * (x.ndim - 1)), (rows, arrays)
    )
    batches = []
    for start in range(0, total, size):
        piece_rows, piece = shard_rows(jax.tree.map(lambda x, s=start: x[s : s + size], (rows, arrays)), mesh)
        if recipe.old_logp == "sampler":
            old = piece["rollout_logp"]
        else:
            old = None if first else score(ours, params, piece_rows)[0]
        ref = score(*reference, piece_rows)[0] if recipe.kl_coef else None
        weighed = (piece["weight"], piece["advantage"], piece["rollout_logp"])
        batches.append(Minibatch(PackedRows(*piece_rows), *weighed, old, ref))
    return batches
