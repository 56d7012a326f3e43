"""Training objectives; import from the module named after the loss."""
