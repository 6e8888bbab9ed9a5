"""Rows: ops that fold each row of an array and write every element, one kernel for all of them."""
