"""Playing on env servers: one session, or a fleet of them."""
