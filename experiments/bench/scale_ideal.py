"""Computes the fewest FLOPs that one device must do, and the fewest bytes that it must send.

These ideal numbers follow from the model, the mesh and the sharding rules.

The work is divided evenly among the devices. The devices gather weights and scatter gradients over `fsdp`. They sum
gradients over `data` and `expert`, and activations over `tensor`. The shards of experts exchange the hidden states of
tokens. The bytes of a collective are those of a ring algorithm, as in the module `hlo`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from r1jax.model import transformer
from r1jax.model.attention import QUERY_BLOCK
from r1jax.model.config import ModelConfig
from r1jax.planning.roofline import pair_flops
from r1jax.sharding import PARAM_RULES, fit, name_of, row_shards, rule_for

SIZE = 4  # bytes of a number: CPUs have no products in bfloat16, so everything is compiled in float32


class Case(NamedTuple):
    """A model on a mesh, and the arrays that its programs are compiled for.

    Attributes:
        cfg: the model.
        mesh: the mesh of fake devices.
        rows: R, the number of packed rows in a micro-batch. For the sampler, the number of completions sampled at once.
        row_length: S, the number of token slots in a packed row. For the sampler, each prompt has S tokens, and the
            cache of each completion has S slots.
        unembedded: U, the number of slots in each packed row for which logits are computed.
        remat: none, dots or full, which selects what the backward pass recomputes.
    """

    cfg: ModelConfig
    mesh: Mesh
    rows: int
    row_length: int
    unembedded: int
    remat: str

    @property
    def tokens(self) -> float:
        """Number of token slots in one row shard of a micro-batch. The mesh splits the rows into row shards."""
        return self.rows * self.row_length / row_shards(self.mesh)

    def axis(self, name: str) -> int:
        """Returns the size of a mesh axis."""
        return self.mesh.shape[name]


class Subject(NamedTuple):
    """One compiled program, with its ideal FLOPs and bytes sent and its predicted memory on one device.

    Attributes:
        compiled: the program.
        flops, sent: the ideal FLOPs and bytes sent.
        plan: the predicted bytes of memory.
    """

    compiled: jax.stages.Compiled
    flops: float
    sent: float
    plan: float


def share(devices: int) -> float:
    """Returns (N-1)/N, the part of an array that each of N devices sends in a ring gather or scatter."""
    return (devices - 1) / devices


def score_flops(case: Case) -> float:
    """Returns the FLOPs of a forward pass over packed rows, for one device."""
    cfg, tokens = case.cfg, case.rows * case.row_length
    head = cfg.vocab_size * cfg.width
    products = 2 * (cfg.matmul_params - head) * tokens + 2 * head * case.rows * case.unembedded
    return (products + pair_flops(cfg) * case.rows * pairs(case.row_length)) / case.mesh.size


def pairs(length: int) -> float:
    """Returns the number of (query, key) pairs that causal attention computes over a row of `length` slots.

    Queries are processed in blocks. Each query is computed with all keys up to the end of its block.
    """
    block = min(QUERY_BLOCK, length)
    return length * (length + block) / 2


def update_flops(case: Case) -> float:
    """Returns the FLOPs of a forward and backward pass over packed rows, for one device.

    The backward pass has two matrix products for each product of the forward pass. It also recomputes the logits and
    the attention scores. If `remat` is "full", it recomputes each layer except the layer's last product. Attention has
    two products in the forward pass, and five in the backward pass.
    """
    cfg, tokens = case.cfg, case.rows * case.row_length
    head = cfg.vocab_size * cfg.width
    body = cfg.matmul_params - head
    last = sum((g.stop - g.start) * cfg.width * last_width(cfg, g.feed) for g in cfg.groups)
    again = body - last if case.remat == "full" else 0
    products = 2 * (3 * body + again) * tokens + 8 * head * case.rows * case.unembedded
    return (products + 3.5 * pair_flops(cfg) * case.rows * pairs(case.row_length)) / case.mesh.size


def last_width(cfg: ModelConfig, feed: str) -> int:
    """Returns the total input width of the down projections that one token uses in a layer.

    The down projections are the last products of a layer. `feed` is the layer's feed-forward, "dense" or "experts". A
    dense feed-forward has one down projection. With experts, the widths of the token's routed experts and of the shared
    experts are summed.
    """
    x = cfg.experts
    return cfg.mlp_width if feed == "dense" else (x.per_token + x.shared) * x.width


def kernels(case: Case) -> list[tuple[str, int, tuple]]:
    """Returns (path, elements on one device, mesh axes that split the parameter) for each parameter.

    The embedding and the multi-token prediction module are left out.
    """
    found = []
    for path, x in jax.tree_util.tree_leaves_with_path(transformer.shapes(case.cfg)):
        spec = fit(rule_for(path, x, PARAM_RULES), x.shape, case.mesh)
        here = math.prod(NamedSharding(case.mesh, spec).shard_shape(x.shape))
        if "embed/embedding" not in name_of(path) and "mtp" not in name_of(path):
            found.append((name_of(path), here, tuple(spec)))
    return found


def gathered(case: Case) -> float:
    """Returns the bytes that one device sends to gather the weights of all layers over `fsdp` once.

    The embedding and the unembedding are left out.
    """
    split = [(path, here) for path, here, spec in kernels(case) if "fsdp" in spec]
    return sum(here for path, here in split if "unembed" not in path) * (case.axis("fsdp") - 1) * SIZE


def gather_bytes(case: Case) -> float:
    """Returns the bytes that one device sends to gather all parameters over `fsdp` once.

    The embedding and the unembedding are included. The multi-token prediction module is left out.
    """
    leaves = [*kernels(case), embedding(case)]
    return sum(here for _, here, spec in leaves if "fsdp" in spec) * (case.axis("fsdp") - 1) * float(SIZE)


def unembedding_bytes(case: Case) -> float:
    """Returns the bytes that one device sends in a gather or a scatter of the unembedding over `fsdp`."""
    cfg, tensor = case.cfg, case.axis("tensor")
    columns = cfg.vocab_size // (tensor if cfg.vocab_size % tensor == 0 else 1)
    return cfg.width * columns * share(case.axis("fsdp")) * SIZE


def embedding_bytes(case: Case) -> float:
    """Returns the bytes that one device sends to embed its tokens. The backward pass sends the same number.

    Over `fsdp`, the devices either gather the table or exchange parts of the embedded tokens. The smaller of the two is
    counted.
    """
    states = case.tokens * case.cfg.width * SIZE
    exchanged = min(unembedding_bytes(case), states * share(case.axis("fsdp")))
    return exchanged + 2 * states * share(case.axis("tensor"))


def layer_sums(case: Case) -> float:
    """Returns the bytes that one device sends if every layer has one all-reduce over the mesh axis `tensor`."""
    return case.cfg.layers * 2 * case.tokens * case.cfg.width * SIZE * share(case.axis("tensor"))


def exchanged(case: Case) -> float:
    """Returns the bytes that one device sends to exchange tokens and results with the shards of experts."""
    layers = sum(g.stop - g.start for g in case.cfg.groups if g.feed == "experts")
    return layers * 2 * case.tokens * case.cfg.width * (case.axis("expert") - 1) * SIZE


def score_sent(case: Case) -> float:
    """Returns the bytes that one device sends in a forward pass over packed rows."""
    weights = gathered(case) + unembedding_bytes(case) + embedding_bytes(case)
    return weights + 2 * layer_sums(case) + exchanged(case)


def update_sent(case: Case) -> float:
    """Returns the bytes that one device sends in a forward and backward pass over packed rows.

    Weights are gathered for both passes, and gradients are scattered once. The attention block and the
    feed-forward block each need one all-reduce over the mesh axis `tensor` in each pass. If `remat` is "full", the
    all-reduce of the attention block is repeated, and tokens are sent to the experts once more.
    """
    again = case.remat == "full"
    weights = 3 * gathered(case) + 2 * (unembedding_bytes(case) + embedding_bytes(case)) + reduced(case)
    heads = 2 * case.tokens * case.unembedded / case.row_length * case.cfg.width * SIZE * share(case.axis("tensor"))
    return weights + (5 if again else 4) * layer_sums(case) + heads + (2.5 if again else 2) * exchanged(case)


def reduced(case: Case) -> float:
    """Returns the bytes that one device sends to sum each gradient over the mesh axes that do not split its parameter.

    Only the axes `data`, `fsdp` and `expert` are considered, because only these axes divide the rows.
    """
    total = 0.0
    leaves = [*kernels(case), embedding(case)]
    for _, here, spec in leaves:
        free = math.prod(case.axis(name) for name in ("data", "fsdp", "expert") if name not in spec)
        total += 2 * here * share(free) * SIZE
    return total


def embedding(case: Case) -> tuple[str, int, tuple]:
    """Returns (path, elements on one device, mesh axes that split the embedding) for the embedding."""
    table = (case.cfg.vocab_size, case.cfg.width)
    spec = fit(PARAM_RULES[0][1], table, case.mesh)
    return "embed", math.prod(NamedSharding(case.mesh, spec).shard_shape(table)), tuple(spec)
