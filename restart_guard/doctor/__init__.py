"""Checks everything that the jobs depend on: one file a section."""
