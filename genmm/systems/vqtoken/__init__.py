"""VQToken: a video as a handful of discrete tokens and a map that says where each of them is seen."""
