"""Run records, measures, counts by group of cases, and bootstrap statistics."""
