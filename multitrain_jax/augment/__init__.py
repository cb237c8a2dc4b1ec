"""Augmentation on the accelerator: what needs arithmetic and not the encoded video."""
