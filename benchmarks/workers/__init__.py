"""Worker processes, one per side: each loads its model once, then runs one task per input line."""
