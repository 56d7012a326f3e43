"""Ways to draw from a trained network; import from the module named after the method."""
