"""Stored functions: fused functions as files that other processes run without tracing.

`write` makes a file, `loaded` a function of it; `archive` is the file, `graphs`, `calls` and
`values` say how a trace is written as JSON, `machine` which machine code comes along; `mlxfn`
writes files of MLX's own.
"""
