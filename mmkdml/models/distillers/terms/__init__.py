"""Transfer terms: transfers with their built losses and projectors, and the losses of a step."""
