"""Queries for a corpus alone: a language model writes them from documents, and a search checks them."""
