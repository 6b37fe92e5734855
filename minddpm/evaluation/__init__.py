"""How good samples are: metrics/, report.py (all of them with their floors), comparison/."""
