"""Measure sample quality: metrics/, report.py (all metrics with reference values), comparison/."""
