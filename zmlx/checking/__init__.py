"""`python -m zmlx check`: a kernel in a file, and what is wrong with it."""
