"""Compiles the sampler's programs for a mesh of fake CPU devices, and computes their ideal costs and memory.

Prefill and decoding gather nothing over the mesh axis `fsdp`, because every row shard has its own copy of the weights.
Devices only sum partial results over the mesh axis `tensor`, and exchange hidden states between the shards of experts.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.bench.scale_ideal import SIZE, Case, Subject, gather_bytes, share
from r1jax.model import transformer
from r1jax.model.cache import Segment
from r1jax.planning.memory import AnyMesh, count_placed, whole
from r1jax.planning.roofline import pair_flops
from r1jax.sampling import programs, sampler
from r1jax.sampling.decoder import Sizes
from r1jax.sharding import ROWS, abstract, decode_specs, fit, row_shards

STEPS = Sizes().chunk


def weights_of(case: Case) -> programs.Weights:
    """Returns the sampler's copy of the parameters on the mesh, with shapes in place of arrays."""
    params = {k: v for k, v in transformer.shapes(case.cfg).items() if k != "mtp"}
    shapes = jax.eval_shape(
        lambda p: programs.Weights({k: v for k, v in p.items() if k != "layers"}, transformer.divide_layers(p)), params
    )
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, decode_specs(shapes, case.mesh)
    )


def on_rows(case: Case, *shape: int, dtype: jnp.dtype = jnp.int32, layers: int = 0) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of an array [N, *shape] whose N = `case.rows` rows are split into shards.

    If `shape` has three dimensions, the array is a cache. The heads of a cache are also split over `tensor`, except
    with latent attention.

    Args:
        layers: number of layers of a stack, the size of a first axis; 0 for no such axis.
    """
    heads = len(shape) == 3 and not case.cfg.latent
    stack = (layers,) if layers else ()
    whole = (*stack, case.rows, *shape)
    spec = fit(P(*(None for _ in stack), *ROWS, *(["tensor"] if heads else [])), whole, case.mesh)
    return jax.ShapeDtypeStruct(whole, dtype, sharding=NamedSharding(case.mesh, spec))


def cache_of(case: Case, slots: int, layers: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
    """Returns (keys, values) with room for `slots` tokens, with shapes in place of arrays.

    With latent attention, the first entry is the whole cache of the layer, and the second is None.

    Args:
        layers: number of layers of a stack; 0 for a single layer.
    """
    cfg = case.cfg
    heads, width = (1, cfg.cache_width) if cfg.latent else (cfg.kv_heads, cfg.head_width)
    values = None if cfg.latent else on_rows(case, heads, slots, width, dtype=jnp.float32, layers=layers)
    return on_rows(case, heads, width, slots, dtype=jnp.float32, layers=layers), values


def depths(case: Case) -> list[int]:
    """Returns the number of layers of each stack that the sampler keeps; 0 for a single layer."""
    return [transformer.depth(layers) for layers in weights_of(case).layers]


def cache_bytes(case: Case, mesh: AnyMesh, tokens: float) -> float:
    """Returns the bytes that the keys and values of `tokens` tokens in each row take on one device."""
    width = case.cfg.cache_width / (1 if case.cfg.latent else whole(case.cfg.kv_heads, mesh, "tensor"))
    return case.cfg.layers * width * tokens * case.rows / row_shards(mesh) * SIZE


def copy_bytes(case: Case) -> float:
    """Returns the bytes that the sampler's copy of the parameters takes on one device."""
    params = {k: v for k, v in transformer.shapes(case.cfg).items() if k != "mtp"}
    return count_placed(params, case.mesh, ("tensor", "expert")) * float(SIZE)


def sums(case: Case, tokens: float) -> float:
    """Returns the bytes that one device sends over the mesh axes `tensor` and `expert` in a forward pass.

    Args:
        tokens: number of tokens in the device's row shard.
    """
    cfg, states = case.cfg, tokens * case.cfg.width * SIZE
    experts = sum(g.stop - g.start for g in cfg.groups if g.feed == "experts")
    exchanged = experts * 2 * states * (case.axis("expert") - 1)
    return (2 * cfg.layers + 1) * 2 * states * share(case.axis("tensor")) + exchanged


def compile_prefill(case: Case) -> Subject:
    """Compiles the prefill of a batch of prompts, one prompt per row."""
    cfg, tokens = case.cfg, case.rows * case.row_length
    shards, prompts = row_shards(case.mesh), (on_rows(case, case.row_length), on_rows(case))
    compiled = programs.prefill.lower(cfg, weights_of(case), *prompts, [], dtype=jnp.float32, shards=shards).compile()
    head = cfg.vocab_size * cfg.width
    products = 2 * (cfg.matmul_params - head) * tokens + 2 * head * case.rows
    flops = products + pair_flops(cfg, cached=True) * case.rows * case.row_length**2
    here = case.tokens
    held = copy_bytes(case) + cache_bytes(case, case.mesh, case.row_length)
    heads = cfg.heads / whole(cfg.heads, case.mesh, "tensor")
    scores = heads * case.rows / row_shards(case.mesh) * case.row_length**2 * SIZE
    activations = here * (4 * cfg.width + 2 * cfg.mlp_width / whole(cfg.mlp_width, case.mesh, "tensor")) * SIZE
    return Subject(compiled, flops / case.mesh.size, sums(case, here), held + scores + activations)


def state_of(case: Case, caches: list) -> programs.Rows:
    """Returns the state of a wave with one row for each prompt, with shapes in place of arrays."""
    number, key = on_rows(case), jax.eval_shape(lambda: jax.random.split(jax.random.key(0), case.rows))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(case.mesh, ROWS))
    clock = jax.ShapeDtypeStruct((), jnp.int32)
    return programs.Rows(clock, number, on_rows(case, dtype=jnp.bool_), number, key, caches)


def compile_decode(case: Case) -> Subject:
    """Compiles a chunk of decoding: `STEPS` tokens of every row."""
    cfg, count = case.cfg, case.rows / row_shards(case.mesh)
    caches = [cache_of(case, case.row_length, layers) for layers in depths(case)]
    prompts = [Segment(*cache, on_rows(case, layers=n)) for cache, n in zip(caches, depths(case), strict=True)]
    rows = state_of(case, caches)
    how = programs.Decoding(STEPS, False, (1,), 0, jnp.float32, shards=row_shards(case.mesh))
    compiled = programs.decode.lower(cfg, weights_of(case), [prompts], rows, 1.0, how).compile()
    pairs = pair_flops(cfg, cached=True) * 2 * case.row_length
    flops = STEPS * case.rows * (2 * cfg.matmul_params + pairs) / case.mesh.size
    held = copy_bytes(case) + 2 * cache_bytes(case, case.mesh, case.row_length)
    logits = 4 * count * cfg.vocab_size * SIZE
    return Subject(compiled, flops, STEPS * sums(case, count), held + logits)


def compile_sync(case: Case) -> Subject:
    """Compiles the program that copies the parameters for the sampler.

    The program gathers the parameters over `fsdp` and splits them into layers.
    """
    params = abstract(transformer.shapes(case.cfg), case.mesh)
    compiled = sampler.sync.lower(params, case.mesh, jnp.float32).compile()
    placed = count_placed(transformer.shapes(case.cfg), case.mesh) * float(SIZE)
    return Subject(compiled, 0.0, gather_bytes(case), placed + 2 * copy_bytes(case))


def compile_grow(case: Case) -> Subject:
    """Compiles the program that doubles the room of the cache of a layer (or stack). `grow` runs it for one after
    another.
    """
    cache = cache_of(case, case.row_length, depths(case)[0])
    compiled = programs.grow_layer.lower(*cache, slots=2 * case.row_length).compile()
    return Subject(compiled, 0.0, 0.0, 3 * share_of_first(case) * cache_bytes(case, case.mesh, case.row_length))


def compile_shrink(case: Case) -> Subject:
    """Compiles the program that removes half of every shard's rows from the state and the cache of a layer (or stack).

    The sampler's function `shrink` runs this program for one layer (or stack) after another.
    """
    shards = row_shards(case.mesh)
    half = math.ceil(case.rows / shards / 2)
    keep = jax.ShapeDtypeStruct((shards, half), jnp.int32, sharding=NamedSharding(case.mesh, ROWS))
    cache = cache_of(case, case.row_length, depths(case)[0])
    compiled = programs.drop_rows.lower(state_of(case, []), cache, [], keep, keep).compile()
    first = share_of_first(case) * cache_bytes(case, case.mesh, case.row_length)
    return Subject(compiled, 0.0, 0.0, (1 + half * shards / case.rows) * first)


def share_of_first(case: Case) -> float:
    """Returns the share of all layers that lies in the first stack; of a model without stacks, in its first layer."""
    return max(depths(case)[0], 1) / case.cfg.layers
