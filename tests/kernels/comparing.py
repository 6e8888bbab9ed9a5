"""Records of kernels, and two side by side: what was added, is gone, changed, and how.

Comes in: Records of two revisions. Goes out: a list of Differences, and the report. A kernel that
several cases make is told once. Within a case, kernels that only one side has are paired in order.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

LINES = 400  # of one diff that the report prints
Texts = dict[str, str]  # by the ending of a file


@dataclass
class Record:
    """Kernels by case, in the order in which they were made, by digest; texts by digest."""

    cases: dict[str, list[str]] = field(default_factory=dict)
    kernels: dict[str, Texts] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # cases that raised, and what

    def add(self, case: str, found: Texts) -> None:
        digest = sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
        self.kernels[digest] = found
        known = self.cases.setdefault(case, [])
        if digest not in known:
            known.append(digest)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(vars(self), indent=1, sort_keys=True), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Record:
        return cls(**json.loads(path.read_text("utf-8")))


@dataclass
class Difference:
    """One kernel, as it was and as it is; None where there was or is none."""

    before: Texts | None
    after: Texts | None
    cases: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "gone" if self.after is None else "changed"

    def diff(self) -> Iterator[str]:
        """Unified, the devices' texts one after the other; of a lone kernel its Metal text."""
        before, after = self.before or {}, self.after or {}
        endings = sorted({*before, *after}, key=lambda e: (e != "metal", e))
        both = bool(before and after)
        for ending in endings if both else ["metal"]:
            old, new = (t.get(ending, "").splitlines() for t in (before, after))
            names = f"before.{ending}", f"after.{ending}"
            yield from difflib.unified_diff(old, new, *names, lineterm="", n=3)


def differences(before: Record, after: Record) -> list[Difference]:
    """In the order of the cases' names."""
    found: dict[tuple[str | None, str | None], Difference] = {}
    for case in sorted({*before.cases, *after.cases}):
        old, new = before.cases.get(case, []), after.cases.get(case, [])
        gone = [d for d in old if d not in new]
        fresh = [d for d in new if d not in old]
        for pair in zip_longest(gone, fresh):
            first, second = pair
            made = Difference(
                before.kernels[first] if first else None,
                after.kernels[second] if second else None,
            )
            found.setdefault(pair, made).cases.append(case)
    return list(found.values())


def report(found: Sequence[Difference], before: Record, after: Record) -> str:
    """What a reviewer reads: the counts, then each difference with the cases that it is in."""
    lines = []
    for difference in found:
        cases = difference.cases
        more = f" and {len(cases) - 3} more cases" if len(cases) > 3 else ""
        lines.append(f"== {difference.kind}: {'; '.join(cases[:3])}{more}")
        text = list(difference.diff())
        lines += text[:LINES]
        if len(text) > LINES:
            lines.append(f"... {len(text) - LINES} more lines")
        lines.append("")
    for side, record in (("before", before), ("after", after)):
        lines += [f"failed {side}: {case}: {why}" for case, why in sorted(record.failed.items())]
    counts = {kind: sum(d.kind == kind for d in found) for kind in ("added", "gone", "changed")}
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return "\n".join([*lines, f"{len(after.kernels)} kernels: {told}"])
