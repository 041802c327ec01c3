"""Records of runs, measures, counts per image group and bootstrap statistics."""
