"""The catalog: kernels by name, a module for each domain. Users import zmlx.kernels."""
