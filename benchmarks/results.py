"""What was compiled is kept and not compiled again: compilations take minutes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Results:
    """A JSON file of what was compiled, by case."""

    def __init__(self, path: Path, compiled: Callable[[Any], dict[str, Any]], row: Callable[[Any, Any], str]):
        """Read the file, if there is one; take what compiles a case, and what makes a row of its numbers."""
        self.path, self._compiled, self._row = path, compiled, row
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def __call__(self, case: Any) -> dict[str, Any]:
        """Look a case up, or compile it, keep it, and print its row."""
        if case.name not in self.found:
            self.found[case.name] = self._compiled(case)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found, indent=1))
        print(self._row(case, self.found[case.name]), flush=True)
        return self.found[case.name]
