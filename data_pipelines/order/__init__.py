"""Which record fills which place of which batch."""
