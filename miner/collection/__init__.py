"""Documents and queries by position, exclusions and overlaps: what is known about a pair before any score."""
