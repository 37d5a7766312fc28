"""What a person or a monitor looks at: the overview, uptimes, the page and the metrics."""
