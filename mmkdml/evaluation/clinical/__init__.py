"""Metrics that medical studies report: surfaces and lesions of volumes, ROC curves of classes."""
