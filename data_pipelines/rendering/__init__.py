"""How synthetic videos are drawn and kept."""
