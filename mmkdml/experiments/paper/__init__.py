"""Values, variants and claims of the paper."""
