"""Judging candidates with a language model, and measuring how often it errs."""
