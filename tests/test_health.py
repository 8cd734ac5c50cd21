"""A device without memory: the error says in which phase, how much, and what lowers the need."""

import jax.numpy as jnp
import pytest

from r1jax.distributed import beat
from r1jax.recipes import RunOptions
from r1jax.runs.health import explain_memory
from r1jax.runs.run import Run


def test_a_run_without_memory_says_so_and_names_its_phase(tmp_path):
    with (
        pytest.raises(MemoryError, match=r"in the phase: update\. 281474\.98 GB more could not .*--batch-rows"),
        Run("test", RunOptions(mesh="1x1", workdir=str(tmp_path / "run")), {}),
    ):
        beat("update")
        jnp.zeros(1 << 46, jnp.float32).block_until_ready()


@pytest.mark.parametrize(
    "error, phase, words",
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2.50GiB.",
            "sampling",
            ["2.50GiB", "--max-tokens"],
        ),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error.", "loading weights", ["TPU compile", "--lora-rank"]),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 1000000000 bytes.", "report", ["1.00 GB", "--batch-rows"]),
    ],
)
def test_every_phase_has_flags(error, phase, words):
    text = explain_memory(error, phase)
    assert all(word in text for word in [f"in the phase: {phase}", "--dry-run", *words]), text
