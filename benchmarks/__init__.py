"""Measurements of speed, side by side with what a user would take instead and with the limit of the machine."""
