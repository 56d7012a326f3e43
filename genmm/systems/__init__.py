"""The published systems, one folder each; they never import one another."""
