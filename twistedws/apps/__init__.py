"""Built-in applications."""
