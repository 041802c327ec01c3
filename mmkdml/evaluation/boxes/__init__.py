"""Boxes of detectors: metrics, matching, panels, and access to samples."""
