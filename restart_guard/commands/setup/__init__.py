"""Commands that set restart-guard up, and take it away."""
