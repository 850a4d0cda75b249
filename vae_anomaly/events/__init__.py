"""Alarms of rows in time as events: pure, after the scores."""
