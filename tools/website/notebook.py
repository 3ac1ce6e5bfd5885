"""Page of a Jupyter notebook in Markdown."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["describe_notebook"]


def describe_notebook(path: Path) -> str:
    """Return the cells and outputs of a notebook in Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, *parts = [part for cell in cells for part in _describe(cell)]
    download = f'<a href="{path.name}" download>Download the notebook</a>'
    return "\n\n".join([title, download, *parts]) + "\n"


def _describe(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/jpeg" in data:
            yield f'<img alt="output of the cell" src="data:image/jpeg;base64,{"".join(data["image/jpeg"]).strip()}">'
        elif text := "".join(output.get("text") or data.get("text/plain", "")).rstrip():
            yield f"```text\n{text}\n```"
