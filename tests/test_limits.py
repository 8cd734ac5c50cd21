"""The rooflines, against worked examples of Qwen2.5 on one H200 and of a small model on a CPU core."""

import numpy as np
import pytest

from r1jax.model.config import ModelConfig
from r1jax.model.presets import PRESETS
from r1jax.planning import roofline
from r1jax.planning.memory import count_placed

H200 = roofline.DEVICES["h200"]
SMALL, LARGE = PRESETS["qwen2.5-1.5b"], PRESETS["qwen2.5-7b"]
# 3.08 million parameters: 4·(2·256·256 + 2·256·128 + 3·256·704) + 512·256.
TINY = ModelConfig(512, 256, 4, 8, 4, 32, 704, qkv_bias=True)
# One core: 80 GFLOP/s at 128 rows, 47 at 32, 86 at 512; 15 GB/s.
CORE = roofline.Device(0, 15e9, 86e9, ((1, 9e9), (8, 25e9), (32, 47e9), (128, 80e9), (512, 86e9)))


@pytest.mark.parametrize(
    "cfg, context, milliseconds",
    [
        # Products 2·1.54e9·256/7.9e14 = 1.00 ms (weights 0.72), cache 28 KiB·256·context/4.3e12: 0.87 ..
        # 6.99 ms.
        (SMALL, 512, 1.87),
        (SMALL, 1024, 2.75),
        (SMALL, 2304, 4.93),
        (SMALL, 4096, 7.99),
        # Products 2·7.07e9·256/7.9e14 = 4.58 ms, cache twice the small one's.
        (LARGE, 512, 6.3),
        (LARGE, 1024, 8.1),
        (LARGE, 2304, 12.5),
        (LARGE, 4096, 18.6),
    ],
)
def test_a_decoding_step_of_256_rows_takes_the_worked_time(cfg, context, milliseconds):
    slots = 256 * context
    assert 1e3 * roofline.decode_seconds(cfg, H200, 256, slots) == pytest.approx(milliseconds, rel=0.01)


def test_the_parts_of_a_step_are_exact():
    # L·(2·D·H·E + 2·D·K·E + 3·D·F) + V·D = 28·(2·1536² + 2·1536·256 + 3·1536·8960) + 151,936·1536
    assert SMALL.matmul_params == 28 * (4_718_592 + 786_432 + 41_287_680) + 233_373_696 == 1_543_569_408
    few = roofline.decode_seconds(SMALL, H200, 1, 0)
    assert few == 2 * SMALL.matmul_params / 4.3e12  # one row waits for the weights
    many = roofline.decode_seconds(SMALL, H200, 1024, 0)
    assert many == 2 * SMALL.matmul_params * 1024 / 7.9e14
    # 28 layers · 2 · 2 heads · 128 · 2 bytes = 28 KiB a slot, and 56 KiB in the large model.
    assert roofline.decode_seconds(SMALL, H200, 1, 1000) - few == pytest.approx(28 * 1024 * 1000 / 4.3e12, rel=1e-9)
    assert LARGE.layers * LARGE.cache_width * 2 == 56 * 1024


@pytest.mark.parametrize("cfg, shared, apart", [(SMALL, 33e-3, 520e-3), (LARGE, 148e-3, 2.37)])
def test_prefill_costs_its_prompts_once(cfg, shared, apart):
    # The worked example makes logits of all 16·512 tokens, which the sampler does not: 2·V·D of each are added here.
    def with_head(prompts: int) -> float:
        head = 2 * cfg.vocab_size * cfg.width * prompts * 511 / H200.flops
        return roofline.prefill_seconds(cfg, H200, [512] * prompts) + head

    assert with_head(16) == pytest.approx(shared, rel=0.02)
    assert with_head(256) == pytest.approx(apart, rel=0.01)
    assert roofline.prefill_seconds(cfg, H200, [512] * 16) < 0.95 * shared


@pytest.mark.parametrize(
    "cfg, seconds, at_45, remat, most", [(SMALL, 13.7, 30, 41, 76.6e3), (LARGE, 60, 132, 177, 17.6e3)]
)
def test_an_update_of_256_times_4096_tokens_takes_the_worked_time(cfg, seconds, at_45, remat, most):
    # (6·N + 6·L·H·E·4096)·1,048,576 / 7.9e14; a quarter of forward and backward again for full remat.
    lengths = [4096] * 256
    limit = roofline.update_flops(cfg, [0] * 256, lengths) / H200.flops
    assert limit == pytest.approx(seconds, rel=0.01)
    assert limit / 0.45 == pytest.approx(at_45, rel=0.02)
    assert limit / 0.45 * 4 / 3 == pytest.approx(remat, rel=0.02)
    assert 256 * 4096 / limit == pytest.approx(most, rel=0.01)
    assert roofline.mfu(cfg, H200, [0] * 256, lengths, limit / 0.45) == pytest.approx(0.45)
    assert roofline.mfu(cfg, H200, [0] * 256, lengths, limit, devices=4) == pytest.approx(0.25)


def test_a_small_model_on_a_cpu_core_takes_the_worked_time():
    assert TINY.matmul_params == 3_080_192
    # 2·3.08e6·128 = 788 MFLOP at 80 GFLOP/s: 9.9 ms. 128 rows · 40 slots · 4 KiB = 21 MB at 15 GB/s: 1.4 ms.
    step = roofline.decode_seconds(TINY, CORE, 128, 128 * 40, size=4, cache_size=4)
    assert step == pytest.approx(788.5e6 / 80e9 + 20.97e6 / 15e9, rel=1e-3)
    # Sampling takes 0.2 ms more: 11.4 ms in the worked example.
    assert 1e3 * step + 0.2 == pytest.approx(11.4, rel=0.01)
    # 6·3.08e6 FLOPs a token at 86 GFLOP/s: 4,650 tokens a second.
    flops = roofline.update_flops(TINY, [0], [1])
    assert CORE.flops / flops == pytest.approx(4650, rel=0.01)


def test_rates_between_measured_rows_are_interpolated_by_their_logarithm():
    assert CORE.rate(64) == pytest.approx((47e9 + 80e9) / 2)  # halfway from 32 to 128 in log₂
    assert CORE.rate(4096) == 86e9 and CORE.rate(1) == 9e9
    assert H200.rate(3) == 7.9e14


def test_a_rollout_is_the_sum_of_its_steps():
    # Two groups of two with prompts of 10 and 20; lengths 3, 1 | 2, 2. Step 1: rows 0, 2, 3 live, one own slot each,
    # both prompts. Step 2: row 0 alone, two own slots, the first prompt.
    found = roofline.rollout_seconds(SMALL, H200, [10, 20], [3, 1, 2, 2])
    steps = roofline.decode_seconds(SMALL, H200, 3, 3 + 30) + roofline.decode_seconds(SMALL, H200, 1, 2 + 10)
    assert found == pytest.approx(steps + roofline.prefill_seconds(SMALL, H200, [10, 20]))
    assert roofline.decode_fraction(SMALL, H200, [10, 20], [3, 1, 2, 2], 2 * found) == pytest.approx(0.5)
    assert roofline.rollout_seconds(SMALL, H200, [10], [1]) == roofline.prefill_seconds(SMALL, H200, [10])


def test_rows_shared_by_two_devices_take_no_longer():
    alone = roofline.rollout_seconds(SMALL, H200, [64] * 8, [100] * 512)
    both = roofline.rollout_seconds(SMALL, H200, [64] * 8, [100] * 512, devices=2)
    assert alone / 2 <= both < alone  # each device still reads all weights


def test_an_update_counts_a_prompt_once_for_its_group():
    # Group of two: prompt 10, completions 4 and 6. Pairs: 50 in the prompt, 40 + 60 to it, 8 + 18 of their own.
    body = SMALL.matmul_params - SMALL.vocab_size * SMALL.width
    by_hand = 6 * (body * 20 + SMALL.vocab_size * SMALL.width * 10) + 3 * roofline.pair_flops(SMALL) * 176
    assert roofline.update_flops(SMALL, [10], [4, 6]) == pytest.approx(by_hand)


def test_few_rows_of_experts_read_few_experts():
    cfg = PRESETS["qwen3-30b-a3b"]
    assert roofline.read_params(cfg, 1) == pytest.approx(cfg.matmul_params)
    # Of 128 experts, 8 chosen by each of 16 rows: 128·(1 − (120/128)¹⁶) = 82.4 are hit; each has 3·2048·768 numbers.
    hit = 128 * (1 - 0.9375**16)
    assert roofline.read_params(cfg, 16) == pytest.approx(cfg.matmul_params + 48 * 3 * 2048 * 768 * (hit - 8))
    every = roofline.read_params(cfg, np.inf)
    assert every == pytest.approx(cfg.matmul_params + 48 * 3 * 2048 * 768 * 120)


def test_latents_are_read_as_they_lie():
    cfg = PRESETS["deepseek-v3"]
    # Absorbed: a key of 512 + 64 numbers and a value of 512; expanded: 192 and 128. Two FLOPs
    # each, 61 layers, 128 heads.
    assert roofline.pair_flops(cfg, cached=True) == 2 * 61 * 128 * (576 + 512)
    assert roofline.pair_flops(cfg) == 2 * 61 * 128 * (192 + 128)
    # 576 numbers · 61 layers · 2 bytes a slot.
    more = roofline.decode_seconds(cfg, H200, 1, 1000) - roofline.decode_seconds(cfg, H200, 1, 0)
    assert more == pytest.approx(70_272 * 1000 / 4.3e12)


def test_accelerators_are_known_by_name_and_cpus_are_measured():
    import jax

    class Named:
        platform = "gpu"

        def __init__(self, kind: str):
            self.device_kind = kind

    kinds = {
        "NVIDIA H200": "h200",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA A100-SXM4-80GB": "a100",
        "TPU v5 lite": "v5e",
        "TPU v5e": "v5e",
        "TPU v5": "v5p",
        "TPU v5p": "v5p",
        "TPU v6 lite": "v6e",
        "TPU v6e": "v6e",
        "Tesla T4": "t4",
        "NVIDIA L4": "l4",
        "NVIDIA GeForce RTX 4090": "rtx4090",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA B200": "b200",
        "TPU v4": "v4",
        "TPU7x": "v7x",
    }
    assert {kind: roofline.ceiling([Named(kind)]) for kind in kinds} == {
        k: roofline.DEVICES[v] for k, v in kinds.items()
    }
    assert roofline.ceiling([Named("abacus")]) is None and roofline.ceiling([Named("NVIDIA L40S")]) is None
    found = roofline.measure_device(jax.devices()[:2], rows=(1, 8), megabytes=1, repeats=1)
    assert found.flops > 0 and found.bandwidth > 0 and [rows for rows, _ in found.rates] == [1, 8]


def test_the_limit_and_the_plan_count_the_same_parameters():
    # Tied, so the embedding is the head; biases (28·2048) and norms (28·2·1536 + 1536) are in no product.
    import jax

    from r1jax.model import transformer
    from r1jax.sharding import AXES

    whole = count_placed(transformer.shapes(SMALL), jax.sharding.AbstractMesh((1, 1, 1, 1), AXES))
    assert whole == SMALL.matmul_params + 28 * 2048 + 28 * 2 * 1536 + 1536
