"""Copies, contamination, and judgments by a model: the quality of the texts and judgments in a store."""
