"""One verb a module: fit, score, calibrate, evaluate, explain, report."""
