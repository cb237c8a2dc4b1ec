"""Trained models as files for other programs, which need none of this code."""
