"""What takes several stages: they call training, evaluation, mining and export in order."""
