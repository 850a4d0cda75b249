"""A table to a detector: splits, folds, training, robustness, diagnostics. Pure."""
