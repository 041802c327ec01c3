"""A run and its folder: identity, config, options, checkpoints, results and console output."""
