"""The public door: what a person imports, for scripts and notebooks."""
