"""`python -m settings`: write docs/settings.md and stacks/schema.json."""

import json
from pathlib import Path

from settings import reference


def generated() -> dict[Path, str]:
    """The files that follow from the settings' classes, with their content."""
    root = Path(__file__).parent.parent
    return {
        root / reference.DOCUMENT: reference.document(),
        root / reference.SCHEMA: json.dumps(reference.json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content, encoding="utf-8")
