"""TOML to frozen options: every option, its default, and every problem told at once."""
