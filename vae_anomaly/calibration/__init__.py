"""Scores to thresholds, p-values and guarantees; knows no model. Pure."""
