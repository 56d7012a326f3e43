"""Turning vectors into codes and back."""
