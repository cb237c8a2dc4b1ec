"""The training step, and what a run does around it."""
