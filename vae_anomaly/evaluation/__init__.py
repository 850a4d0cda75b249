"""Scores against labels and against baseline detectors. Pure."""
