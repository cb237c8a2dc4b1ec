"""Synthetic videos: drawn, encoded, annotated."""
