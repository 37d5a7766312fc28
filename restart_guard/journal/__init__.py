"""Every outcome is committed here first, then delivered."""
