"""Samples completions of questions: fills in the prompt template, samples tokens, and decodes them to text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.rewards.format import THINK
from r1jax.sampling import sampler
from r1jax.sampling.keys import number, row_keys
from r1jax.sampling.programs import Weights
from r1jax.sampling.rollout import Rollout
from r1jax.sampling.waves import sample_in_waves


class Wave(NamedTuple):
    """The completions of one sampler call that belong to this process: parallel lists, one entry per completion.

    The completions of a question may be divided among processes.

    Attributes:
        examples: the question that each completion answers, a dictionary.
        samples: index of each completion among the completions of its question, from 0.
        texts: completions as text.
        lengths: [N] number of sampled tokens, the stop token included.
        stopped: [N] whether a stop token was sampled; False means truncated.
    """

    examples: list[dict]
    samples: list[int]
    texts: list[str]
    lengths: np.ndarray
    stopped: np.ndarray


class Draws(NamedTuple):
    """Identifies the completions to sample, and thereby their sampling noise.

    Attributes:
        samples: number of completions per question.
        seed: seed of the run.
        round_: number of the round in which the questions are sampled; or [B] round numbers, one per question. Another
            number gives other noise.
        places: [B] index of each question in the stream of questions. The noise depends on the index, so a question
            gets different noise each time it occurs. None: the noise depends on the question's id, and not on the other
            questions of the file.
    """

    samples: int
    seed: int
    round_: int | np.ndarray
    places: np.ndarray | None = None


def complete(
    policy: Policy,
    weights: Weights,
    examples: Sequence[Mapping],
    draws: Draws,
    mesh: Mesh,
    sampling: sampler.Sampling,
    finished: Callable[[list[tuple[int, str]]], None] | None = None,
    partial: sampler.Partial = sampler.WHOLE,
) -> tuple[Rollout, list[str]]:
    """Samples completions of each question.

    Returns the rollout, and the texts of the completions that belong to this process.

    Every process must call this function, with the same questions. The texts are in the order of `rollout.own`. With
    one process, there is a text for every completion. Completions of the same question are neighbours. If a prompt ends
    in `<think>`, the tag is prepended to the returned text, so that all consumers see one format.

    Args:
        weights: the policy's parameters, from `sampler.sync`.
        examples: questions as dictionaries with `id` and `problem`.
        sampling: sampling settings. Their stop ids and pad id are replaced by those of the policy's tokenizer.
        finished: a function that is called when completions of this process have ended. Its argument is a list with
            (index of the row in the rollout, text) of each of these completions; see `sampler.sample`.
        partial: `partial.before` holds unfinished completions of the first examples, which this call continues. Their
            prompts are made from `examples`, not taken from `partial.before`.
    """
    tokenizer, (samples, seed, round_, places), before = policy.tokenizer, draws, partial.before
    asked = [fill(policy.template, example["problem"]) for example in examples]
    prompts = [tokenizer.encode(text) for text in asked]
    begun = [THINK if text.rstrip().endswith(THINK) else "" for text in asked]
    ids = np.repeat([number(example) for example in examples] if places is None else places, samples)
    rounds = np.repeat(np.broadcast_to(round_, len(examples)), samples)
    keys = row_keys(seed, rounds, ids, np.tile(np.arange(samples), len(examples)))
    texts: dict[int, str] = {}
    old = 0 if before is None else len(before.lengths) // samples

    def decode(row: int, tokens: np.ndarray) -> str:
        return begun[row // samples] + tokenizer.decode(tokens)

    def ended(rows: list[tuple[int, np.ndarray]]) -> None:
        new = [(row, decode(row, tokens)) for row, tokens in rows]
        texts.update(new)
        if finished:
            finished(new)

    rollout = sample_in_waves(
        policy.cfg,
        weights,
        prompts[old:],
        keys,
        mesh,
        sampling._replace(stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id),
        ended,
        partial._replace(before=before and before._replace(prompts=prompts[:old])),
    )
    return rollout, [
        texts[row] if row in texts else decode(row, rollout.tokens[row, : rollout.lengths[row]])
        for row in map(int, rollout.own)
    ]
