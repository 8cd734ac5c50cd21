"""Benchmark C5: whether the sampler's tokens, log-probabilities and token distribution are exact.

The sampler must draw the same tokens with any chunk size and on any mesh, whether or not it drops finished rows. The
sampler's log-probabilities must equal the trainer's. The tokens must follow the softmax of the logits.

The workload is 512 completions (rows) of 4 prompts. At each position, the logits of different tokens are several nats
apart. A row ends after 25 tokens on average. The attention backend is the one that RL uses. On 8 devices, each device
has 64 rows.

`tests/test_resume.py` checks that a resumed run samples the same tokens as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.bench.measure import Options, line

SIZES = {
    "full": dict(prompts=4, group=128, prompt=48, most=192, stops=20, draws=200_000, vocab=512, chunks=(5, 32)),
    "toy": dict(prompts=4, group=4, prompt=8, most=24, stops=6, draws=50_000, vocab=512, chunks=(5,)),
}
SHARP = 10.0


def chi_square(draws: int, vocab: int) -> float:
    """Draws `draws` tokens from one distribution over `vocab` tokens with the sampler's function `drawing.draw`.

    Returns χ² per degree of freedom of the tokens' counts against the softmax of the logits. An exact sampler gives 1
    on average.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.sampling.drawing import draw

    logits = jnp.asarray(np.random.default_rng(5).standard_normal(vocab, np.float32))
    keys = jax.random.split(jax.random.key(0), draws)
    token, _ = jax.jit(lambda logits, keys: draw(logits, keys, jnp.int32(3), jnp.float32(1), greedy=False))(
        jnp.broadcast_to(logits, (draws, vocab)), keys
    )
    expected = draws * np.asarray(jax.nn.softmax(logits), np.float64)
    counts = np.bincount(np.asarray(token), minlength=vocab)
    return float(((counts - expected) ** 2 / expected).sum() / (vocab - 1))


def measure(options: Options) -> dict[str, Any]:
    """Measures the exactness of sampling (benchmark C5). Returns the benchmark's JSON line.

    `value` is the largest difference between the log-probabilities of the sampler and of the trainer, in nats.
    """
    import jax
    import numpy as np

    from experiments.bench import batches, wave
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.model.kernels.backends import attention_backend
    from r1jax.sampling import sampler
    from r1jax.sharding import make_mesh
    from r1jax.training.packing import gather, pack
    from r1jax.training.step import score

    size, cfg = SIZES[options.size], MODELS[options.size]
    params = random_params(cfg, SHARP)
    prompts = random_prompts(cfg, size["prompts"], size["prompt"])
    keys = wave.keys_of(size["prompts"], size["group"])
    stops = tuple(range(cfg.vocab_size - size["stops"], cfg.vocab_size))

    def sampled(devices: int = 1, **sizes: int) -> Any:
        mesh = make_mesh(f"data:{devices}", jax.devices()[:devices])
        attention = attention_backend(mesh, cfg, compared=True)
        sampling = sampler.Sampling(size["most"], stop_ids=stops, attention=attention, sizes=sampler.Sizes(**sizes))
        return sampler.sample(cfg, sampler.sync(params, mesh), prompts, keys, mesh, sampling)

    first = sampled()
    others = {
        "without compaction": sampled(least_rows=size["prompts"] * size["group"]),
        **{f"chunks of {n}": sampled(chunk=n) for n in size["chunks"]},
        **{f"{n} devices": sampled(n) for n in (2, 8) if n <= len(jax.devices())},
    }
    same = {
        name: bool((other.tokens == first.tokens).all() and (other.lengths == first.lengths).all())
        for name, other in others.items()
    }
    done = [(i // size["group"], first.tokens[i, :n]) for i, n in enumerate(first.lengths)]
    rows, places = pack(prompts, done, size["prompt"] + size["most"])
    attention = attention_backend(make_mesh("1x1"), cfg, compared=True)
    scorer = dataclasses.replace(batches.learner(cfg, "none").network, attention=attention)
    logp, _ = score(scorer, params, jax.tree.map(jax.numpy.asarray, rows))
    trained = np.concatenate(gather(np.asarray(logp), places, first.lengths.tolist()))
    gap = np.abs(trained - np.concatenate([first.logp[i, :n] for i, n in enumerate(first.lengths)]))
    chi = chi_square(size["draws"], size["vocab"])
    return line(
        "exactness",
        float(gap.max()),
        "nats, largest difference of sampler and trainer",
        same_tokens=same,
        mean_difference=float(gap.mean()),
        tokens=int(first.lengths.sum()),
        longest=int(first.lengths.max()),
        chi_square_per_dof=chi,
        goals={
            "the same tokens everywhere": all(same.values()),
            "log-probabilities within 2e-5": bool(gap.max() <= 2e-5),
            "chi-square per degree of freedom in [0.8, 1.2]": 0.8 <= chi <= 1.2,
        },
    )
