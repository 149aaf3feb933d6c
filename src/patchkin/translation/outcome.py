"""What became of files that were to be translated."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from patchkin.translation.flicker import FlickerScore


@dataclass
class Outcome:
    """What became of a list of files."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    """Already there."""
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """With the reason, one line each."""
    remade: dict[Path, str] = field(default_factory=dict)
    """Those of `written` that replaced an earlier translation, with the reason."""
    notes: dict[str, list[Path]] = field(default_factory=dict)
    """What could not be kept of inputs, and of which."""
    flickers: dict[Path, FlickerScore] = field(default_factory=dict)
    """Of clips."""

    def add(self, other: Outcome) -> None:
        """What became of other files."""
        self.written += other.written
        self.skipped += other.skipped
        self.failed += [failure for failure in other.failed if failure not in self.failed]
        self.remade |= other.remade
        self.flickers |= other.flickers
        for line, sources in other.notes.items():
            self.notes.setdefault(line, []).extend(sources)

    def note(self, line: str, source: Path) -> None:
        """Remember what is not kept of an input."""
        sources = self.notes.setdefault(line, [])
        if source not in sources[-1:]:
            sources.append(source)
