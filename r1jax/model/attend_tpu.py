"""Splash attention over packed rows for TPUs, with the mask of the rows as it is.

Splash's segment ids know equality only, and a shared prompt is read by several segments. Its dynamic masks know
anything: they are arrays, and blocks of them that allow nothing are skipped. One mask serves all heads; rows go one
after the other, as a TPU core would take them anyway.

Source: jax.experimental.pallas.ops.tpu.splash_attention.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Float

LANES = 128  # blocks are multiples of it
BLOCKS = (512, 256, 128)  # the largest that divides a row


def splash(
    q: Float[Array, "R S H E"],
    k: Float[Array, "R S K E"],
    v: Float[Array, "R S K E"],
    mask: Bool[Array, "R S S"],
    scale: float,
) -> Float[Array, "R S H E"]:
    """softmax(q·k · scale)·v over the keys that the mask allows; S a multiple of 128. CPUs interpret it."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    size = next(block for block in BLOCKS if q.shape[1] % block == 0)
    sizes = kernel.BlockSizes(
        block_q=size, block_kv=size, block_kv_compute=size,
        block_q_dkv=size, block_kv_dkv=size, block_kv_dkv_compute=size, block_q_dq=size, block_kv_dq=size,
    )  # fmt: skip

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
        ):  # while tracing, its constructor makes this flag a tracer
            setattr(attend, name, getattr(attend, name)._replace(is_dynamic_mask=True))
        return attend(q, k, v)

    heads_first = [x.swapaxes(1, 2) for x in ((q * scale).astype(q.dtype), k, v)]
    return jax.lax.map(row, (*heads_first, mask)).swapaxes(1, 2)
