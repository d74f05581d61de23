"""Masks held in the training loops of others; each file needs its own library, and the extra of that name."""
