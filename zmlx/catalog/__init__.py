"""The catalog: kernels written by hand, a module for each domain. Users import zmlx.kernels."""
