"""The page at `/`: plain HTML, CSS and ES modules, served as they are."""
