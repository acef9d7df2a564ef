"""One process a side: each loads its model once, then does what it is told, line by line."""
