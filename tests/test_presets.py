"""Published models: their parameters counted against what their makers print."""

import pytest

from r1jax.model import presets
from r1jax.weights import config_from_hf, config_to_hf

# Totals of the safetensors files on the hub, without the copy of a tied head that some store. The cards round them:
# "0.49B, 1.54B, 3.09B, 7.61B, 14.7B, 32.5B, 72.7B"; "0.6B .. 32.8B, 30.5B"; "8B, 70B, 405B, 1.23B, 3.21B"; "671B".
PUBLISHED = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-math-1.5b": 1_543_714_304,
    "qwen2.5-math-7b": 7_615_616_512,
    "qwen3-0.6b": 751_632_384 - 151_936 * 1024,
    "qwen3-1.7b": 2_031_739_904 - 151_936 * 2048,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "deepseek-v3": 671_026_419_200,
    "deepseek-r1": 671_026_419_200,
    "r1-distill-qwen-1.5b": 1_777_088_000,
    "r1-distill-qwen-7b": 7_615_616_512,
    "r1-distill-qwen-14b": 14_770_033_664,
    "r1-distill-qwen-32b": 32_763_876_352,
    "r1-distill-llama-8b": 8_030_261_248,
    "r1-distill-llama-70b": 70_553_706_496,
}


def test_every_preset_is_compared():
    assert PUBLISHED.keys() == presets.PRESETS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_as_many_parameters_as_its_makers_print(name):
    cfg = presets.PRESETS[name]
    # A router's bias is a buffer: no checkpoint's count of parameters includes it.
    buffers = (cfg.layers - 3) * 256 if name.startswith("deepseek") else 0
    assert presets.count(cfg) in (PUBLISHED[name], PUBLISHED[name] + buffers)


def test_the_parameters_that_one_token_visits_are_those_printed():
    # DeepSeek-V3's report: "37B activated for each token"; Qwen3's: "3.3B", embeddings included in both.
    for name, billions in (("deepseek-v3", 37), ("qwen3-30b-a3b", 3.3)):
        cfg = presets.PRESETS[name]
        visited = cfg.matmul_params + cfg.vocab_size * cfg.width
        assert visited / 1e9 == pytest.approx(billions, rel=0.02), name


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_survives_its_config_json(name):
    cfg = presets.PRESETS[name]
    assert config_from_hf(config_to_hf(cfg, eos_id=1, pad_id=0, max_positions=cfg.max_positions)) == cfg


def test_weights_of_another_size_than_the_named_model_are_refused():
    presets.check("qwen2.5-math-7b", presets.PRESETS["r1-distill-qwen-7b"], "DIR")
    presets.check("anything", presets.PRESETS["qwen3-8b"], "DIR")
    with pytest.raises(ValueError, match="--weights=DIR has other shapes than --model=qwen3-8b: width 5120 instead"):
        presets.check("qwen3-8b", presets.PRESETS["qwen3-14b"], "DIR")
