"""How wrong a run is: hidden positives, other rules, the chance that a candidate is relevant."""
