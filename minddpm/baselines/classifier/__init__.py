"""The classifier whose features and predictions the metrics use."""
