"""How good a model is on the user's own task, and whether two models differ."""
