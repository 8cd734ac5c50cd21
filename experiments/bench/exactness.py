"""C5: the same tokens without compaction, in other chunks and on other meshes; the trainer's log-probabilities; the
draw's law.

512 rows of 4 prompts from a model whose logits differ by several nats, which ends a row after 25 tokens on average.
Attention is that of rounds of RL; each of 8 devices has 64 rows, and spare ones fill its products as rows end.
Resuming is exact too; `tests/test_resume.py` shows it.
"""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

from experiments.bench.measure import Options, line

SIZES = {
    "full": dict(prompts=4, group=128, prompt=48, most=192, stops=20, draws=200_000, vocab=512, chunks=(5, 32)),
    "toy": dict(prompts=4, group=4, prompt=8, most=24, stops=6, draws=50_000, vocab=512, chunks=(5,)),
}
SHARP = 10.0


def chi_square(draws: int, vocab: int) -> float:
    """χ² over its degrees of freedom, of so many tokens drawn from one distribution."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.decode import draw

    logits = jnp.asarray(np.random.default_rng(5).standard_normal(vocab, np.float32))
    keys = jax.random.split(jax.random.key(0), draws)
    token, _ = jax.jit(lambda logits, keys: draw(logits, keys, jnp.int32(3), jnp.float32(1), greedy=False))(
        jnp.broadcast_to(logits, (draws, vocab)), keys
    )
    expected = draws * np.asarray(jax.nn.softmax(logits), np.float64)
    counts = np.bincount(np.asarray(token), minlength=vocab)
    return float(((counts - expected) ** 2 / expected).sum() / (vocab - 1))


def measure(options: Options) -> dict[str, Any]:
    """The line of C5. `value` is the largest difference of log-probabilities."""
    import jax
    import numpy as np

    from experiments.bench import batches, wave
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax import sampler
    from r1jax.model.attend_choice import attention_backend
    from r1jax.rollout import gather, pack
    from r1jax.sharding import make_mesh
    from r1jax.update import score

    size, cfg = SIZES[options.size], MODELS[options.size]
    params = random_params(cfg, SHARP)
    prompts = random_prompts(cfg, size["prompts"], size["prompt"])
    keys = wave.keys_of(size["prompts"], size["group"])
    stops = tuple(range(cfg.vocab_size - size["stops"], cfg.vocab_size))

    def sampled(devices: int = 1, **constants: int) -> Any:
        mesh = make_mesh(f"data:{devices}", jax.devices()[:devices])
        with mock.patch.dict(vars(sampler), constants):
            weights = sampler.sync(params, mesh)
            return sampler.sample(
                cfg, weights, prompts, keys, mesh, max_tokens=size["most"], temperature=1.0, stop_ids=stops, pad_id=0,
                attention=attention_backend(mesh, cfg, compared=True),
            )  # fmt: skip

    first = sampled()
    others = {
        "without compaction": sampled(LEAST_ROWS=size["prompts"] * size["group"]),
        **{f"chunks of {n}": sampled(CHUNK=n) for n in size["chunks"]},
        **{f"{n} devices": sampled(n) for n in (2, 8) if n <= len(jax.devices())},
    }
    same = {
        name: bool((other.tokens == first.tokens).all() and (other.lengths == first.lengths).all())
        for name, other in others.items()
    }
    done = [(i // size["group"], first.tokens[i, :n]) for i, n in enumerate(first.lengths)]
    rows, places = pack(prompts, done, size["prompt"] + size["most"])
    attention = attention_backend(make_mesh("1x1"), cfg, compared=True)
    scorer = dataclasses.replace(batches.learner(cfg, "none"), attention=attention)
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
