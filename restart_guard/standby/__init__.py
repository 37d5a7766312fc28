"""Several hosts, of which one runs the programs."""
