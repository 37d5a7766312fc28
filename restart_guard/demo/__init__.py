"""The whole job on an embedded default."""
