"""Commands that show what is and what happened."""
