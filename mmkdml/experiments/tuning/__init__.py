"""Search for the weights of the losses with Optuna."""
