"""Commands on programs."""
