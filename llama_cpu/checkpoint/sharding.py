"""The table of dimensions along which LLaMA's tensors are split across shards.

Merging, splitting and the direct loading of shards use it. The layout is that of Meta's published
checkpoints, written with fairscale's ColumnParallelLinear (rows, dimension 0), RowParallelLinear
(columns, dimension 1) and ParallelEmbedding.
"""

from llama_cpu.model.config import ModelConfig

# None: every shard holds a copy. The embedding is missing because there are two ways to split it.
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
    """Return the dimension along which the tensor ``name`` is split; None if shards hold copies.

    ``embedding_dimension``: the dimension of the embedding, which is 1 (the model's width) in
    LLaMA 1 and 2, and 0 (the vocabulary) in Llama 3. Raises KeyError or IndexError for a tensor
    that no LLaMA model has.
    """
    kind = name.split(".")[-2]  # layers.0.attention.wq.weight -> wq
    return embedding_dimension if kind == "tok_embeddings" else _SPLIT_DIMENSION[kind]


def embedding_dimension_of_shard(shape: tuple[int, ...], dim: int) -> int:
    """Return the dimension along which an embedding was split, given the shape of one shard's part.

    ``dim``: the model's width.
    """
    return 0 if shape[-1:] == (dim,) else 1


def embedding_dimension_of_model(config: ModelConfig) -> int:
    """Return the dimension along which Meta splits this model's embedding."""
    # Llama 3 can be recognised by its rotary embedding.
    is_llama_3 = config.rope_theta == 500_000 or config.rope_scaling is not None
    return 0 if is_llama_3 else 1
