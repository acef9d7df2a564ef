"""How LLaMA's tensors are split across ranks: the one table that says so.

Merging, direct loading of shards and tensor parallelism all read it. The layout is that of
Meta's published checkpoints, written by fairscale's ColumnParallelLinear (rows, dimension 0),
RowParallelLinear (columns, dimension 1) and ParallelEmbedding.
"""

# None: every rank holds a copy.
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


def split_dimension(name: str, shard_shape: tuple[int, ...], dim: int) -> int | None:
    """Dimension along which the tensor ``name`` is split, or None where ranks hold copies.

    ``shard_shape`` is the shape on one rank, ``dim`` the model's width. The embedding is split
    on the width in LLaMA 1 and 2 and on the vocabulary in Llama 3: a shard that is narrower than
    the model tells them apart.

    Raises KeyError for a tensor that no LLaMA has.
    """
    kind = name.split(".")[-2]  # layers.0.attention.wq.weight -> wq
    if kind == "tok_embeddings":
        return 0 if shard_shape[-1] == dim else 1
    return _SPLIT_DIMENSION[kind]
