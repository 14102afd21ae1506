"""The FLOP count is exact in both conventions."""

import pytest
import torch
from torch.utils import flop_counter

import llama4d_flops as flops
import llama4d_model as model
from llama4d_options import ModelConfig

LLAMA_405B = {
    "layers": 126,
    "width": 16_384,
    "heads": 128,
    "kv_heads": 8,
    "ffn": 53_248,
    "vocab": 128_256,
}


@pytest.mark.parametrize(
    ("sequence", "full", "half"),
    [
        (8_192, 2_625_424_588_800, 2_523_955_986_432),
        (131_072, 5_669_482_659_840, 4_045_985_021_952),
    ],
)
def test_a_token_of_llama_405b_costs_what_was_worked_out_by_hand(sequence: int, full: int, half: int) -> None:
    config = ModelConfig(**LLAMA_405B, sequence=sequence)
    assert flops.flops_per_token(config, causal=False) == full
    # Published causal figures halve the scores; a causal mask keeps half of them and the diagonal.
    assert flops.flops_per_token(config, causal=True) == half + 6 * 126 * 128 * 128


def test_llama_405b_has_as_many_parameters_as_it_says() -> None:
    config = ModelConfig(**LLAMA_405B, sequence=8_192)
    assert flops.parameters(config) == 405_853_388_800
    assert flops.matmul_parameters(config) == 403_747_897_344


def test_parameters_of_a_built_model_are_as_many_as_counted() -> None:
    config = ModelConfig()
    stage = model.Stage(config, model.Context(config.sequence), range(config.layers), "sdpa", 0.0)
    assert sum(parameter.numel() for parameter in stage.parameters()) == flops.parameters(config)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(layers=2, width=96, heads=6, kv_heads=2, ffn=160, vocab=320, sequence=128),
        ModelConfig(layers=3, width=64, heads=4, kv_heads=4, ffn=256, vocab=128, sequence=32),
    ],
)
def test_a_step_costs_what_the_flop_counter_sees_to_the_integer(config: ModelConfig) -> None:
    batch = 2
    stage = model.Stage(config, model.Context(config.sequence), range(config.layers), "matmul", 0.0)
    tokens = torch.zeros((batch, config.sequence), dtype=torch.int64)
    with flop_counter.FlopCounterMode(display=False) as forward:
        logits = stage(tokens)
    with flop_counter.FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    expected = flops.flops_per_token(config, causal=False) * batch * config.sequence
    assert forward.get_total_flops() + backward.get_total_flops() == expected
    assert forward.get_total_flops() * 3 == expected
