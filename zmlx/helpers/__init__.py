"""Helpers: what zmlx.elementwise and zmlx.autograd are made of."""
