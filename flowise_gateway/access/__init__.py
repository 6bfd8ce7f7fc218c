"""Access control: keys, origins, limits, models, links to files."""
