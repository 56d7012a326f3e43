"""Manifest in, results out: resumable, sharded runs over many items."""
