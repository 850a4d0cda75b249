"""The verbs, one module each: fit, calibrate, score, evaluate, explain, report, publish and models, with their requests and results."""
