"""Compiles the programs of training and sampling for a mesh of fake CPU devices. Nothing is allocated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from experiments.bench.scale_ideal import SIZE, Case, Subject, score_flops, score_sent, update_flops, update_sent
from experiments.bench.scale_sampling import (
    compile_decode,
    compile_grow,
    compile_prefill,
    compile_shrink,
    compile_sync,
)
from r1jax.model import transformer
from r1jax.model.feedforward import within
from r1jax.model.packed_rows import PackedRows
from r1jax.planning import memory
from r1jax.sharding import ROWS, abstract
from r1jax.training import logprobs
from r1jax.training.logprobs import Network
from r1jax.training.objectives import grpo_objective
from r1jax.training.packing import Minibatch
from r1jax.training.step import Learner, accumulate, places, score


def rows_of(case: Case, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of an array [R, *shape]. Its R = `case.rows` rows are split over the mesh."""
    return jax.ShapeDtypeStruct((case.rows, *shape), dtype, sharding=NamedSharding(case.mesh, ROWS))


def packed(case: Case) -> PackedRows:
    """Returns the packed rows of a micro-batch, with shapes in place of arrays."""
    whole = [rows_of(case, case.row_length)] * 5
    wanted = rows_of(case, case.unembedded) if case.unembedded < case.row_length else None
    return PackedRows(*whole, wanted=wanted)


def network(case: Case) -> Network:
    """Returns the network in float32. Its attention is an einsum instead of a kernel."""
    return Network(case.cfg, dtype=jnp.float32, remat=case.remat, mesh=case.mesh)


def parameters(case: Case) -> dict:
    """Returns the parameters on the mesh, with shapes in place of arrays."""
    return abstract(transformer.shapes(case.cfg), case.mesh)


def compile_score(case: Case) -> Subject:
    """Compiles the forward pass that computes the old or the reference log-probabilities of a micro-batch."""
    compiled = score.lower(network(case), parameters(case), packed(case)).compile()
    return Subject(compiled, score_flops(case), score_sent(case), planned(case, None))


def compile_update(case: Case) -> Subject:
    """Compiles the program that computes a micro-batch's gradients and adds them to those of earlier micro-batches."""
    learner = Learner(network(case), optax.adamw(1e-6), grpo_objective(0.2, 0.001))
    params = parameters(case)
    number = rows_of(case, case.row_length, dtype=jnp.float32)
    batch = Minibatch(packed(case), *[number] * 5)
    sums = jax.eval_shape(lambda p, b: accumulate(learner, p, None, None, b), params, batch)
    sums = sums._replace(grads=params)
    compiled = accumulate.lower(learner, params, None, sums, batch, places(params)).compile()
    return Subject(compiled, update_flops(case), update_sent(case), planned(case, case.remat))


def planned(case: Case, remat: str | None) -> float:
    """Returns the bytes of memory that `r1jax.planning.memory` predicts for a pass over a micro-batch.

    Args:
        remat: what the backward pass recomputes ("none", "dots" or "full"); None for a pass without gradients.
    """
    shape = memory.Shape(case.rows, case.row_length, case.unembedded, remat, SIZE)
    return sum(memory.held_bytes(case.cfg, case.mesh, shape).values())


PROGRAMS: dict[str, Callable[[Case], Subject]] = {
    "score": compile_score,
    "update": compile_update,
    "prefill": compile_prefill,
    "decode": compile_decode,
    "sync": compile_sync,
    "grow": compile_grow,
    "shrink": compile_shrink,
}


def build(name: str, case: Case) -> Subject:
    """Compiles the program `name`, a key of `PROGRAMS`, with substitutes for the kernels that CPUs lack.

    Logits are computed for `logprobs.CHUNK` tokens at a time, as on accelerators.
    """
    as_there = mock.patch.object(logprobs, "chunk_of", lambda vocab: logprobs.CHUNK)
    with within(case.cfg, case.mesh), ragged_as_even(case), as_there:
        return PROGRAMS[name](case)


@contextlib.contextmanager
def ragged_as_even(case: Case) -> Iterator[None]:
    """Replaces the ragged product of the experts by an einsum in which all experts get equally many rows.

    XLA's ragged product for CPUs would make every expert read all rows.
    """
    ragged = jax.lax.ragged_dot

    def even(rows: jax.Array, kernel: jax.Array, sizes: jax.Array) -> jax.Array:
        here = kernel.shape[0]
        each = -(-rows.shape[0] // case.cfg.experts.count)
        some = jnp.pad(rows, ((0, max(each * here - len(rows), 0)), (0, 0)))[: each * here].reshape(here, each, -1)
        out = jnp.einsum("xmd,xdf->xmf", some, kernel).reshape(each * here, -1)[: len(rows)]
        return jnp.pad(out, ((0, len(rows) - len(out)), (0, 0)))

    jax.lax.ragged_dot = even
    try:
        yield
    finally:
        jax.lax.ragged_dot = ragged
