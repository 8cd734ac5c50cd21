"""Benchmark C8: memory and time of computing log-probabilities in chunks of tokens, compared with all logits at once.

Both sides also compute gradients with respect to the hidden states and the unembedding matrix. There are 1,024 tokens,
the width D is 256, and the vocabulary V is 16,384. r1jax's chunk has 1,024 tokens, so all tokens form one
chunk. This case does not show what it costs to compute in several chunks. Therefore two more cases are measured: the
same tokens in chunks of 128, and 8,192 tokens in chunks of 1,024.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {
    "full": dict(tokens=1024, many=8192, width=256, vocab=16_384, chunk=128),
    "toy": dict(tokens=64, many=128, width=16, vocab=128, chunk=16),
}


def measure(options: Options) -> dict[str, Any]:
    """Measures memory and time of log-probabilities (benchmark C8). Returns the benchmark's JSON line.

    The line's `space` maps each case, such as "as shipped" (r1jax's own chunk), to a ratio. The ratio is the memory of
    the case, divided by the memory of the same tokens with all logits at once. `time` does the same for times. `ratio`
    is the entry of `space` for chunks of 128 tokens. Smaller is better.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.training import logprobs

    size, rng = SIZES[options.size], np.random.default_rng(0)
    matrix = jnp.asarray(0.05 * rng.standard_normal((size["width"], size["vocab"]), np.float32))

    def full(hidden: jax.Array, matrix: jax.Array, targets: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(hidden @ matrix)
        return jnp.take_along_axis(logp, targets[:, None], axis=-1).sum()

    def chunked(hidden: jax.Array, matrix: jax.Array, targets: jax.Array) -> jax.Array:
        return logprobs.token_logprobs(hidden, matrix, targets)[0].sum()

    plans = {
        "full": (full, size["tokens"], None),
        "chunked": (chunked, size["tokens"], size["chunk"]),
        "as shipped": (chunked, size["tokens"], logprobs.CHUNK),
        "full, many": (full, size["many"], None),
        "as shipped, many": (chunked, size["many"], logprobs.CHUNK),
    }
    calls, memory = {}, {}
    for name, (function, tokens, chunk) in plans.items():
        hidden = jnp.asarray(rng.standard_normal((tokens, size["width"]), np.float32))
        targets = jnp.asarray(rng.integers(0, size["vocab"], tokens))
        with mock.patch.object(logprobs, "CHUNK", chunk or logprobs.CHUNK):
            program = jax.jit(jax.grad(function, (0, 1))).lower(hidden, matrix, targets).compile()
        memory[name] = program.memory_analysis().temp_size_in_bytes
        calls[name] = lambda p=program, h=hidden, t=targets: jax.block_until_ready(p(h, matrix, t))
    spent = time_in_turn(calls, options.repeats)
    ms = {name: 1e3 * middle(each) for name, each in spent.items()}
    space = {name: memory[name] / memory["full" + ", many" * ("many" in name)] for name in plans}
    time = {name: ms[name] / ms["full" + ", many" * ("many" in name)] for name in plans}
    return line(
        "logprobs",
        memory["chunked"] / 1e6,
        "MB of temporaries, one thread",
        baseline=memory["full"] / 1e6,
        ratio=space["chunked"],
        spread=spread(spent["chunked"]),
        space=space,
        time=time,
        ms=ms,
        mb={name: each / 1e6 for name, each in memory.items()},
        goals={
            "chunks of 128: memory <= 0.2 x": space["chunked"] <= 0.2,
            "chunks of 128: time <= 1.1 x": time["chunked"] <= 1.1,
            "as shipped, 8 times the tokens: memory <= 0.2 x": space["as shipped, many"] <= 0.2,
            "as shipped, 8 times the tokens: time <= 1.1 x": time["as shipped, many"] <= 1.1,
        },
    )
