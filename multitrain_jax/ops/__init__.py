"""Pure functions that models are made of, some with several implementations."""
