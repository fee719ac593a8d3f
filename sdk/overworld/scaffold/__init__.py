"""New projects: `overworld init` copies a whole, working one from `templates/` and gives it its names."""
