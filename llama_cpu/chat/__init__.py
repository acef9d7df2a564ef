"""The conversation, its session with a loaded model, templates, context and token lens."""
