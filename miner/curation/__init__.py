"""What is in the data that should not be: copies, and what evaluation data share with training data."""
