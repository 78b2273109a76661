"""Asking a language model many questions: within a budget, and with answers read strictly."""
