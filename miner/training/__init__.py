"""Training of encoders and rerankers: one file per recipe."""
