"""Runs the notebooks of this folder anew, in the root of the clone, and keeps their outputs: make notebooks."""

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT = 600_000  # bytes of a notebook


def run(path: Path) -> None:
    """Execute one notebook; what it makes is in outputs/NAME."""
    shutil.rmtree(ROOT / "outputs" / path.stem, ignore_errors=True)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1200, kernel_name="python3")
    client.execute(cwd=str(ROOT))
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if "tags" in cell.metadata else {}
    text = nbformat.writes(notebook) + "\n"
    found = re.findall(r"/(?:home|root|work|tmp|Users)/[^\s\"]*", text)
    if found:
        sys.exit(f"{path.name}: paths of this machine: {', '.join(found[:3])}")
    if len(text) > LIMIT:
        sys.exit(f"{path.name}: {len(text)} bytes, more than {LIMIT}; make its pictures smaller")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    # `!python` in a cell is the Python that runs this, whose output no colour codes may enter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ |= {"NO_COLOR": "1", "TERM": "dumb", "WANDB_MODE": "offline"}
    for name in sys.argv[1:] or sorted(path.name for path in HERE.glob("*.ipynb")):
        print(name, flush=True)
        run(HERE / name)
