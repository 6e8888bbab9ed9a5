"""Short: elements of rows so short that threads would take parts of several (SHORT).

Comes in: a Space and the lines that read its inputs. Goes out: two ways to take all elements of a
thread, before the one of zmlx.msl.loop that wants them in one row: packs of dense rows that go over
their ends, and neighbours dealt to neighbouring threads, from any strides.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmlx.msl.layouts import contiguous, crossing, full_inputs
from zmlx.msl.lines import Loads, coordinates, divided, each, indent
from zmlx.msl.space import Space

# Rows so short that most threads would take parts of two (SHORT): the lanes of a warp take
# neighbours, and each goes on by as many elements as there are lanes, counting in every dimension.
_SCATTERED = """\
if (SHORT{straight}) {{
  constexpr int kTurn = ELEMS < 8 ? ELEMS : 8;  // loads of an array under way
  const INDEX begin = (t >> 5) * INDEX(32 * ELEMS) + (t & 31);
{coordinates}
  INDEX far = 32;
{steps}
  for (int b = 0; b < ELEMS; b += kTurn) {{
    const INDEX from = begin + INDEX(b * 32);
{declared}
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {{
      if (total - from > INDEX(k * 32)) {{
{loads}
      }}
{next}
    }}
    ZMLX_UNROLL
    for (int k = 0; k < kTurn; ++k) {{
      if (total - from > INDEX(k * 32)) {{
{work}
      }}
    }}
  }}
  return;
}}"""


def lined(space: Space) -> list[str]:
    """`lined`: short rows of all full inputs lie one behind another, so that packs go over ends."""
    tests = [
        *(["!across"] if crossing(space) else []),
        *[contiguous(space, i) for i in full_inputs(space)],
    ]
    return [f"const bool lined = SHORT && {' && '.join(tests)};"] if full_inputs(space) else []


def scattered(
    space: Space,
    loads: Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """All elements of the thread, where rows are short and threads do not divide them."""
    moved = [i for i in loads.read if space.moves[i]]
    steps, onward, carry = [], [f"at{i} += far{i};" for i in moved], ""
    for d, before in zip(reversed(space.dims), reversed([None, *space.dims[:-1]]), strict=True):
        onward.append(f"c{d} += d{d}{carry};")
        if before is None:
            steps.append(f"const INDEX d{d} = far;")
            continue
        steps += [f"const INDEX d{d} = far % n{d};", f"far /= n{d};"]
        carry = f" + carry{d}"
        onward += [f"const INDEX carry{d} = c{d} >= n{d};", f"c{d} -= carry{d} * n{d};"]
        for i in moved:
            back = _offset(space, i, {before: "1", d: f"-n{d}"})
            if back:
                steps.append(f"const long back{i}_{d} = {back};")
                onward.append(f"at{i} += carry{d} ? back{i}_{d} : 0;")
    for i in moved:
        steps.append(f"long at{i} = {_offset(space, i, {d: f'c{d}' for d in space.dims})};")
        steps.append(f"const long far{i} = {_offset(space, i, {d: f'd{d}' for d in space.dims})};")
    work = each(
        [f"const {loads.kinds[i]} x{i} = v{i}[k];" for i in moved], arguments, output_types,
        [f"out{i}[from + k * 32] = {memory}(y{i});" for i, (_, memory) in enumerate(output_types)],
    )  # fmt: skip
    held = [f"v{i}[k] = {loads.kinds[i]}(in{i}[at{i}]);" for i in moved]
    parts = {
        "coordinates": indent([coordinates(space), *divided(space)]),
        "steps": indent(steps),
        "declared": indent([f"{loads.kinds[i]} v{i}[kTurn];" for i in moved], 4),
        "loads": indent(held, 8),
        "next": indent(onward, 6),
        "work": indent(work, 8),
    }
    joined = {name: "\n".join(lines) for name, lines in parts.items()}
    straight = " && !across" if crossing(space) else ""
    straight += " && !lined" if full_inputs(space) else ""
    return _SCATTERED.format(straight=straight, **joined).splitlines()


def over_ends(
    space: Space,
    loads: Loads,
    arguments: Sequence[str],
    output_types: Sequence[tuple[str, str]],
) -> list[str]:
    """All ELEMS elements at once of dense rows that end among them; what is broadcast is read one
    by one, counting in every dimension."""
    inner, full = loads.inner, full_inputs(space)
    others = [i for i in loads.read if space.moves[i] and i not in full]
    begins = [
        f"long at{i} = {_offset(space, i, {d: f'c{d}' for d in space.dims})};" for i in others
    ]
    onward = [f"at{i} += in{i}_step{inner};" for i in others if inner in space.moves[i]]
    carry = "1"
    for d, before in zip(reversed(space.dims), reversed([None, *space.dims[:-1]]), strict=True):
        onward.append(f"c{d} += {carry};")
        if before is not None:
            carry = f"carry{d}"
            onward += [f"const INDEX carry{d} = c{d} >= n{d};", f"c{d} -= carry{d} * n{d};"]
            backs = [(i, _offset(space, i, {before: "1", d: f"-n{d}"})) for i in others]
            onward += [f"at{i} += carry{d} ? {back} : 0;" for i, back in backs if back]
    loading = [f"const {loads.kinds[i]} x{i} = {loads.kinds[i]}(w{i}[k]);" for i in full]
    loading += [f"const {loads.kinds[i]} x{i} = {loads.kinds[i]}(in{i}[at{i}]);" for i in others]
    stores = [f"r{i}[k] = y{i};" for i in range(len(output_types))]
    return ["if (lined && whole) {", *indent([
        *begins,
        *[f"const auto w{i} = zmlx_take<ELEMS>(in{i} + begin, 1, apart);" for i in full],
        *[f"zmlx_results<ELEMS, {kind}> r{i};" for i, (kind, _) in enumerate(output_types)],
        "ZMLX_UNROLL",
        "for (int k = 0; k < ELEMS; ++k) {",
        *indent([*each(loading, arguments, output_types, stores), *onward]),
        "}",
        *[f"zmlx_give<ELEMS>(out{i} + begin, r{i}, apart);" for i in range(len(output_types))],
        "return;",
    ]), "}"]  # fmt: skip


def _offset(space: Space, i: int, counts: dict[int, str]) -> str:
    """How far input `i` moves by `counts` elements in these dimensions."""
    moves = space.moves[i]
    return " + ".join(f"long({n}) * in{i}_step{d}" for d, n in counts.items() if d in moves)
