"""The verbs, one file each: the only place where the pure core meets files, models and tracking.

A verb takes plain values, returns a frozen result (``results.py``), raises the errors of ``vae_anomaly.errors``, and neither
prints nor exits. This file stays empty, so that one verb never pays for the imports of another.
"""
