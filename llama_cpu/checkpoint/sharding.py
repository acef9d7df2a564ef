"""How LLaMA's tensors are split across ranks: the one table that says so.

Merging, direct loading of shards and tensor parallelism all read it. The layout is that of
Meta's published checkpoints, written by fairscale's ColumnParallelLinear (rows, dimension 0),
RowParallelLinear (columns, dimension 1) and ParallelEmbedding.
"""

from llama_cpu.model.config import ModelConfig

# None: every rank holds a copy. The embedding is split in either of two ways, see below.
_SPLIT_DIMENSION: dict[str, int | None] = {
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
    "output": 0,
    "attention_norm": None,
    "ffn_norm": None,
    "norm": None,
}


def split_dimension(name: str, embedding_dimension: int) -> int | None:
    """Dimension along which the tensor ``name`` is split, or None where ranks hold copies.

    ``embedding_dimension`` is that of the embedding: 1, the model's width, in LLaMA 1 and 2; 0,
    the vocabulary, in Llama 3.

    Raises KeyError or IndexError for a tensor that no LLaMA has.
    """
    kind = name.split(".")[-2]  # layers.0.attention.wq.weight -> wq
    return embedding_dimension if kind == "tok_embeddings" else _SPLIT_DIMENSION[kind]


def embedding_dimension_of_shard(shape: tuple[int, ...], dim: int) -> int:
    """How an embedding was split, of which one rank has this shape; ``dim``: the model's width."""
    return 0 if shape[-1:] == (dim,) else 1


def embedding_dimension_of_model(config: ModelConfig) -> int:
    """How Meta would split this model's: Llama 3 is known by its rotary angles."""
    is_llama_3 = config.rope_theta == 500_000 or config.rope_scaling is not None
    return 0 if is_llama_3 else 1
