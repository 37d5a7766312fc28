"""One command a file: options in, one call, texts out."""
