"""False negatives: estimated from labels, compared by hidden positives, and the rules that avoid them."""
