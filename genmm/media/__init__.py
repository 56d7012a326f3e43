"""Sound, pictures and video: reading, writing, resampling, and every limit on hostile files."""
