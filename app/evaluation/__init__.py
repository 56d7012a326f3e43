"""Measuring a model from the outside: text in, sound out, judged by `genmm.metrics`."""
