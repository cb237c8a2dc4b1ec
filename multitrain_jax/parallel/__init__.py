"""Several devices, several hosts, and their memory."""
