"""Redis data rebuilt from MySQL."""
