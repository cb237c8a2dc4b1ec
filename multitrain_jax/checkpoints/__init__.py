"""Checkpoints and exports: written, found, checked, read."""
