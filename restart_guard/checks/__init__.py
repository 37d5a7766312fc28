"""Is the Redis data there and good: read it, recover it, record the outcome."""
