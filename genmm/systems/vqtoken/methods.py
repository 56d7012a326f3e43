"""Names of the ways to reduce a video and of the blocks behind them; a command line knows them without torch."""

from __future__ import annotations

from typing import Literal

__all__ = ["BLOCKS", "CLUSTERINGS", "CLUSTERING_METHODS", "METHODS", "SCALES", "BlockName", "Clustering", "Scale"]

BlockName = Literal["none", "official", "paper", "occupancy"]
"""What turns codebook and map into tokens: nothing, the published block, the paper's equations 6 and 7, or ours."""
BLOCKS = ("none", "official", "paper", "occupancy")

Clustering = Literal["kmeans", "k_center"]
"""How vqtoken finds its clusters: kmeans (as published), whose codebook rows are means, or k_center, farthest first,
whose codebook rows are tokens of the clip. Means lose least on average; k_center gives small things clusters of their
own."""
CLUSTERINGS = ("kmeans", "k_center")
CLUSTERING_METHODS = ("vqtoken", *CLUSTERINGS)
"""Methods that cluster: they can choose the number of tokens and merge windows. vqtoken clusters as it is told to by
`clustering` (a pipeline: as its block was trained); the others are the clusterings by name."""
METHODS = (*CLUSTERING_METHODS, "uniform", "random", "norm", "pool", "tome", "tome_frames")
"""All of them; behind those that cluster the baselines of `baselines.BASELINES`."""

Scale = Literal["raw", "unit", "norm"]
"""What codebook rows are made of: raw tokens (paper, equation 4), unit tokens (published code), or unit tokens that are
stretched to the mean length of the clip's tokens."""
SCALES = ("raw", "unit", "norm")
