"""Samples completions step by step: a step of nano's chains of thought ends with a comma or a newline."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from experiments.claims.tree import Step, Write
from experiments.r1_zero import NANO
from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys

STEP_ENDS = (",", "\n")
STEP = 32  # most tokens of a step


def make_writer(
    policy: Policy, params: dict, examples: Sequence[dict], mesh: Mesh, seed: int, shape: tuple[int, int]
) -> Write:
    """Makes a function that samples the next steps of unfinished completions, at temperature 1.

    A completion ends with the policy's stop token, or with as many tokens as R1-Zero's nano recipe allows.

    Args:
        examples: the questions. The function takes indices into this list, one for each unfinished completion.
        seed: seed of the sampling noise. Each call of the function has noise of its own.
        shape: (completions, steps). A call of the function takes at most `completions` unfinished completions. For each
            of these, it samples `steps` next steps, each with noise of its own.
    """
    together, children = shape
    synced, tokenizer = sampler.sync(params, mesh), policy.tokenizer
    asked = [tokenizer.encode(fill(policy.template, example["problem"])) for example in examples]
    ends = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).endswith(STEP_ENDS)]
    sampling = sampler.Sampling(STEP, stop_ids=(*tokenizer.stop_ids, *ends), pad_id=tokenizer.pad_id)
    calls = itertools.count()

    def write(rows: list[int], beginnings: list[tuple[int, ...]]) -> list[list[Step]]:
        spare = together - len(rows)  # the last row is repeated, so that all calls have one shape
        prompts = [asked[row] + list(tokens) for row, tokens in zip(rows, beginnings, strict=True)]
        numbers = np.repeat(rows + rows[-1:] * spare, children)
        keys = row_keys(seed, next(calls), numbers, np.tile(np.arange(children), together))
        rollout = sampler.sample(policy.cfg, synced, prompts + prompts[-1:] * spare, keys, mesh, sampling)
        found = []
        for i, tokens in enumerate(beginnings):
            group = range(i * children, (i + 1) * children)
            added = [tuple(map(int, rollout.tokens[j, : rollout.lengths[j]])) for j in group]
            found.append([(a, a[-1] in tokenizer.stop_ids or len(tokens) + len(a) >= NANO.max_tokens) for a in added])
        return found

    return write
