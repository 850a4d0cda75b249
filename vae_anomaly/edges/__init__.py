"""Edges, one outside thing per file: tables on disk, the artifact folder, MLflow."""
