"""Ways to reach a person beside WeCom: one kind a file, all in ``registry``."""
