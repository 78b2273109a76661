"""Workflows of several stages: train from a store, bench, loop."""
