"""One command a file: options in, one call, words out."""
