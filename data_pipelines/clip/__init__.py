"""One clip: which frames, which pixels, which boxes."""
