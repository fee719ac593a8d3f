"""ALFWorld's text engine, made fast. It knows upstream's packages and PDDL games, but nothing of Overworld."""
