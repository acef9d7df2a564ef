"""The matrices that have a row for each token, which a weight format may keep otherwise."""

TABLES = ("tok_embeddings.weight", "output.weight")
