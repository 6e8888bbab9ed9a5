"""hypothesis strategy: C expressions over x and y, as users of the helpers write them."""

from __future__ import annotations

from hypothesis import strategies as st

LEAVES = ("x", "y", "0.5f", "2", "-1.25f", "(T)3")
OF_ONE = ("exp", "metal::tanh", "sin", "fabs", "sqrt", "kk_sigmoid", "kk_gelu_tanh", "floor")
OF_TWO = ("max", "fmin", "metal::pow", "fmod", "atan2")


def texts(depth: int = 3) -> st.SearchStrategy[str]:
    """Expressions of at most that many levels; values are floats wherever a function wants one."""
    leaf = st.sampled_from(LEAVES)
    if depth == 0:
        return leaf
    inner = texts(depth - 1)
    return st.one_of(
        leaf,
        st.builds("{}((float){})".format, st.sampled_from(OF_ONE), inner),
        st.builds("{}((float){}, (float){})".format, st.sampled_from(OF_TWO), inner, inner),
        st.builds("({1} {0} {2})".format, st.sampled_from("+-*/"), inner, inner),
        st.builds("({} > 0.125f ? (T){} : (T){})".format, inner, inner, inner),
        st.builds("(- {})".format, inner),
    )
