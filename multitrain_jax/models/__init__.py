"""The video transformer and its heads."""
