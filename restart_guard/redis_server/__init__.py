"""The Redis server: connections, persistence, what is wrong with it."""
