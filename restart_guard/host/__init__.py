"""This machine: its processes and who they are."""
