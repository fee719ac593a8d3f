"""What is wrong with the operator's data."""


class CatalogueError(Exception):
    """Data that cannot be used; the message says where, what was expected and what to do."""
