"""`job=ray`: several servers of one configuration behind one address, on Ray Serve; only this package imports ray."""
