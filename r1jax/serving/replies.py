"""Samples replies and streams them. A request gets new text after every chunk of tokens, and can be cancelled any time.

Requests with the same sampling settings are sampled together, in one wave of the sampler.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.model.buckets import rung
from r1jax.policy import Policy
from r1jax.sampling import sampler
from r1jax.sampling.collector import Follower
from r1jax.sampling.keys import row_keys
from r1jax.sampling.programs import Weights
from r1jax.tokenizers.protocol import Tokenizer

CHUNK = 8  # tokens between two looks at the replies
LEAST_SLOTS, MOST_SLOTS = 64, 1024  # first room for the tokens of a reply; few sizes, because each is compiled
LEAST_PROMPT = 128
UNFINISHED = "\ufffd"  # a tokenizer decodes the first bytes of a character to it


class Settings(NamedTuple):
    """Sampling settings, as in `sampler.Sampling`. Requests that are sampled together have equal settings."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclasses.dataclass(eq=False)
class Request:
    """A request for a reply, and the part of the reply that was sampled so far.

    Attributes:
        prompt: token ids.
        settings: sampling settings.
        max_tokens: largest number of tokens of the reply, including the stop token.
        seed: seed of the sampling noise. Requests with the same seed, prompt and settings get the same reply.
        stop: strings that end the reply and are left out of it.
        hear: called with the new text whenever there is some.
        given_up: a function that is called after every chunk. It returns True if nobody waits for the reply any longer.
        tokens: sampled token ids, including the tokens of a stop string.
        text: the text so far.
        finish: the reason why the reply ended, "stop", "length" or "given up"; "" while the reply goes on.
    """

    prompt: list[int]
    settings: Settings
    max_tokens: int
    seed: int = 0
    stop: tuple[str, ...] = ()
    hear: Callable[[str], None] = lambda text: None
    given_up: Callable[[], bool] = lambda: False
    tokens: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    finish: str = ""

    def grow(self, tokens: np.ndarray, ended: bool, tokenizer: Tokenizer) -> None:
        """Stores the tokens sampled so far, and passes the new text to `hear`. If `given_up()` is true, ends the reply.

        Does nothing after the reply has ended.

        If the last characters of the text may be the beginning of a stop string, or are an incomplete character, they
        are held back until more tokens show what they are.

        Args:
            tokens: all tokens of the reply that were sampled so far.
            ended: whether a stop token was sampled, or no more tokens follow.
        """
        if self.finish:
            return
        if self.given_up():
            self.finish = "given up"
            return
        self.tokens = [int(token) for token in tokens[: self.max_tokens]]
        stopped = bool(self.tokens) and self.tokens[-1] in tokenizer.stop_ids
        last = ended or stopped or len(self.tokens) >= self.max_tokens
        whole = tokenizer.decode(self.tokens)
        cuts = [at for at in (whole.find(stop) for stop in self.stop) if at >= 0]
        if cuts:
            whole = whole[: min(cuts)]
            self.finish = "stop"
        elif last:
            self.finish = "stop" if stopped else "length"
        else:
            whole = whole.rstrip(UNFINISHED)
            whole = whole[: len(whole) - max((held_back(whole, stop) for stop in self.stop), default=0)]
        new, self.text = whole[len(self.text) :], max(self.text, whole, key=len)
        if new:
            self.hear(new)


def held_back(text: str, stop: str) -> int:
    """Returns the length of the longest end of a text that may be the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class AllEnded(Exception):
    """Raised to end a sampler call early, once all its requests have ended.

    A stop string ends a request, and so does a client that gave up. The sampler itself knows neither, and would go on.
    """


def reply(policy: Policy, weights: Weights, mesh: Mesh, requests: Sequence[Request]) -> None:
    """Samples the replies of requests together, until each has ended, and stores them in the requests.

    Works in a single process only.

    Args:
        policy: the model's config and tokenizer.
        weights: parameters from `sampler.sync`.
        requests: requests with the same `settings`.

    Raises:
        ValueError: a setting is out of range, or a prompt is empty.
    """
    settings, tokenizer = requests[0].settings, policy.tokenizer
    longest = max(request.max_tokens for request in requests)
    # Few numbers of rows, because each is another program. A spare row also keeps a lone prompt from being taken for a
    # prefix that all rows share, whose length would be in the program.
    rows = rung(len(requests), 2)
    spare = rows - len(requests)
    prompts = [*(request.prompt for request in requests), *[[tokenizer.eos_id]] * spare]
    keys = np.concatenate([row_keys(seed, 0, [0], [0]) for seed in (*(r.seed for r in requests), *[0] * spare)])

    def hear(told: list[tuple[int, np.ndarray, np.ndarray, bool]]) -> None:
        for row, tokens, _, ended in told:
            if row < len(requests):
                requests[row].grow(tokens, ended, tokenizer)
        if all(request.finish for request in requests):
            raise AllEnded

    sizes = sampler.Sizes(
        chunk=CHUNK,
        least_rows=rows,
        least_slots=min(rung(longest, LEAST_SLOTS), MOST_SLOTS),
        least_prompt=LEAST_PROMPT,
    )
    sampling = sampler.Sampling(
        max_tokens=longest,
        **settings._asdict(),
        stop_ids=tuple(tokenizer.stop_ids),
        pad_id=tokenizer.pad_id,
        sizes=sizes,
    )
    with contextlib.suppress(AllEnded):
        sampler.sample(policy.cfg, weights, prompts, keys, mesh, sampling, Follower(hear))
