"""Reviewing by hand: a local page on which people judge candidates, and what their answers say."""
