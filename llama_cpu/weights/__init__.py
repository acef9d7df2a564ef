"""Weight formats: how matrices are held in memory and multiplied, one format per file."""
