"""Parameters by name: where they start from, what is kept, whether they are whole."""
