"""Published values, variants and claims of the paper."""
