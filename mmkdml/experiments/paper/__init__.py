"""Published values, runs and claims of the paper."""
