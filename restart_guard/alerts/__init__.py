"""Messages to people and to monitors."""
