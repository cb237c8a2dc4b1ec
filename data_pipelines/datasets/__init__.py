"""Datasets as clips: record number -> pixels and labels."""
