"""Derivatives of regions, as graphs: partials by sympy, lowering to rows, the chain rule."""
