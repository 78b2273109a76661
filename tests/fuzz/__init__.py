"""Hostile inputs, seeded: what the suite runs some of, and `scripts/fuzz` as many as one likes."""
