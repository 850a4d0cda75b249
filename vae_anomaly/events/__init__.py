"""Alarms of rows in time as events. Pure."""
