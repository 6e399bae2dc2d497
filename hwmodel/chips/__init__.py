"""Chips as files, and the presets."""
