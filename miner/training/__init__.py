"""Training models on what a store holds: one file per recipe."""
