"""Clinical metrics: surfaces and lesions of volumes, ROC curves of classes."""
