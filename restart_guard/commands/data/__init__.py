"""Commands on Redis data."""
