"""FLOPs that one token costs, forward and backward, exactly.

Matrix multiplies alone are counted, each multiply-add as two, backward as twice the forward, recomputation never. The
embedding is a lookup and costs nothing; the output projection counts. Two conventions are in use, and a utilisation
means nothing without the name of one: `full` counts the whole score matrix (PaLM, appendix B; torchtitan), `causal`
only the half that a causal kernel has to compute.
"""

from llama4d_options import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Number of weights that take part in matrix multiplies: per layer q, o, k, v and three FFN matrices; the head."""
    attention = (
        2 * config.width * config.heads * config.head_size + 2 * config.width * config.kv_heads * config.head_size
    )
    ffn = 3 * config.width * config.ffn
    return config.layers * (attention + ffn) + config.width * config.vocab


def parameters(config: ModelConfig) -> int:
    """Number of all weights: the matrices above, the embedding, and two norms a layer plus the last one."""
    norms = (2 * config.layers + 1) * config.width
    return matmul_parameters(config) + config.vocab * config.width + norms


def flops_per_token(config: ModelConfig, causal: bool) -> int:
    """FLOPs a token at the configured sequence length S.

    Full: 6*W + 12*L*H*h*S. Causal: 6*W + 6*L*H*h*(S + 1), as a token attends to (S + 1) / 2 positions on average.
    """
    scores = config.layers * config.heads * config.head_size
    dense = 6 * matmul_parameters(config)
    return dense + (6 * scores * (config.sequence + 1) if causal else 12 * scores * config.sequence)
