"""Guarded programs: observe, launch, stop, relaunch."""
