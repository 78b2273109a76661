"""Documents and queries by position, and what is known of a pair before any score."""
