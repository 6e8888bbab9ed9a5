"""Tuning: measuring launches fairly, and what `zmlx.autotune` does to a fused function."""
