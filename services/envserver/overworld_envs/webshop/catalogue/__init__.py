"""What is for sale and what is asked for: products, goals, and the files that hold them."""
