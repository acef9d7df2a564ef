"""How matrices are kept in memory and multiplied, one weight format per file."""
