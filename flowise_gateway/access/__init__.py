"""Who may do what: keys, origins, limits, models, links to files."""
