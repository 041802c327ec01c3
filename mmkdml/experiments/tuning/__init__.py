"""Search for loss weights with Optuna."""
