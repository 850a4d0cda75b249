"""Thresholds, p-values and false-alarm guarantees from calibration scores; independent of the model. Pure."""
