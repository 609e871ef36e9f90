"""Banks on disk."""
