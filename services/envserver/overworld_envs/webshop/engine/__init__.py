"""WebShop's rules, pages and rewards, as upstream's; it knows nothing of Overworld."""
