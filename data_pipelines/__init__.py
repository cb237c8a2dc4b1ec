"""Files on disk -> batches of NumPy arrays: writing records from videos, and reading them for
training.

This package never imports `multitrain_jax` or JAX, and needs no TensorFlow.
"""
