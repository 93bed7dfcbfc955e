"""The HTTP routes, a class for each kind of API."""
