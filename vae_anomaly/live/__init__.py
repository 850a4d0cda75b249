"""Scores of rows as they come, until they end."""
