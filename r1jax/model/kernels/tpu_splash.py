"""Computes splash attention over packed rows on TPUs, with the attention mask of the rows as an array.

With splash's segment ids, a query reads only keys of its own id, so completions could not share a prompt. So each row's
mask is an array instead (splash's dynamic mask), which can express any mask. Splash skips the blocks in which the mask
is False everywhere. All heads use the same mask. Rows run one after another, as a TPU core would run them anyway.

Source: jax.experimental.pallas.ops.tpu.splash_attention.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

LANES = 128  # block sizes are multiples of this number
BLOCKS = (512, 256, 128)  # block sizes; the largest that divides a row is used


def splash(
    q: Float[Array, "R S H E"],
    k: Float[Array, "R S K E"],
    v: Float[Array, "R S K E"],
    mask: Bool[Array, "R S S"],
    scale: float,
) -> Float[Array, "R S H E"]:
    """Returns the attention output softmax(q·k · scale)·v, over the keys where `mask` [row, query, key] is True.

    CPUs interpret the kernel. S must be a multiple of 128.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    size = next(block for block in BLOCKS if q.shape[1] % block == 0)
    sizes = kernel.BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )

    def row(args: tuple[Array, Array, Array, Array]) -> Array:
        q, k, v, mask = args
        attend = kernel.make_splash_mha_single_device(
            mask[None],
            block_sizes=sizes,
            residual_checkpoint_name="attention",
            interpret=jax.default_backend() == "cpu",
        )
        for name in (
            "fwd_mask_info",
            "dq_mask_info",
            "dkv_mask_info",
        ):  # during tracing, the constructor turns this flag into a tracer
            setattr(attend, name, getattr(attend, name)._replace(is_dynamic_mask=True))
        return attend(q, k, v)

    heads_first = [x.swapaxes(1, 2) for x in ((q * scale).astype(q.dtype), k, v)]
    return jax.lax.map(row, (*heads_first, mask)).swapaxes(1, 2)
