"""Models of the Hugging Face hub: which files one needs, and their download into its cache."""
