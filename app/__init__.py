"""What a person touches: the genmm command and the web page."""
