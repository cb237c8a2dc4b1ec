"""Trained models in use: videos to classes, features, heat; long videos window by window."""
