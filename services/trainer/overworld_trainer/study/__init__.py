"""`overworld study`: many runs that answer questions stated beforehand, and the page that says what came out."""
