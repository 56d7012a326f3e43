"""MelodyFlow (arXiv 2407.03648): music from words and edits of real tracks by flow matching."""
