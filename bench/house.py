"""Count the house: python bench/house.py [--against REVISION] [--names]

Files, lines of code (without blanks, comments and docstrings), long and complex functions, modules at
the root of the package, modules that `import vfn.data.base` loads, and public docstrings whose first
line opens with a word that describes instead of saying what is returned or done.
"""

import argparse
import ast
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG = 60  # lines of code of a function
COMPLEX = 15  # cyclomatic complexity of a function, as radon counts it
OPENINGS = ("Of", "What", "Whether", "How", "As", "Where", "Who", "Which")
NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip
BRANCHES = (
    ast.If, ast.IfExp, ast.ExceptHandler, ast.match_case, ast.Assert, ast.FunctionDef,
)  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


def documented(tree: ast.Module) -> Iterator[Documented]:
    """Every node of `tree` that may have a docstring."""
    return (node for node in ast.walk(tree) if isinstance(node, Documented))


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in documented(tree):
        if ast.get_docstring(node) is not None:
            first = node.body[0]
            lines.difference_update(range(first.lineno, (first.end_lineno or 0) + 1))
    return lines


def opens_badly(node: Documented) -> bool:
    """True for a public docstring whose first line opens with one of `OPENINGS`."""
    public = isinstance(node, ast.Module) or not node.name.startswith("_")
    words = (ast.get_docstring(node) or "").split(maxsplit=1)
    return public and bool(words) and words[0].rstrip(",") in OPENINGS


def complexity(function: Function) -> int:
    """Cyclomatic complexity as radon counts it: conditions, comprehensions and inner functions count."""
    found = 0  # the function itself is one of its nodes
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            found += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            found += 1 + len(node.ifs)
        elif isinstance(node, ast.For | ast.While | ast.Try):
            found += (not isinstance(node, ast.Try)) + bool(node.orelse)
        elif isinstance(node, BRANCHES):
            found += 1
    return found


def loaded_by_data(root: Path) -> int:
    """Number of modules of the package that `import vfn.data.base` loads."""
    count = "import sys, vfn.data.base; print(sum(m.split('.')[0] == 'vfn' for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", count], cwd=root, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def measure(root: Path, names: bool = False) -> dict[str, float]:
    """Return every figure of the house at `root`; `names` prints the functions above the limits."""
    sizes, badly = [], 0
    long: list[str] = []
    tangled: list[str] = []
    for path in sorted([*root.glob("*.py"), *root.glob("vfn/**/*.py")]):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines = code_lines(text, tree)
        sizes.append(len(lines))
        for node in documented(tree):
            badly += opens_badly(node)
            if isinstance(node, Function):
                own = range(node.lineno, (node.end_lineno or 0) + 1)
                name = f"{path.relative_to(root)}: {node.name}"
                long += [name] * (len(lines.intersection(own)) > LONG)
                tangled += [f"{name} {complexity(node)}"] * (complexity(node) > COMPLEX)
    if names:
        print(*long, *tangled, "", sep="\n")
    filled = [size for size in sizes if size]
    return {
        "files with code": len(filled),
        "lines of code": sum(sizes),
        "median lines of a file": statistics.median(filled),
        f"functions above {LONG} lines": len(long),
        f"functions above complexity {COMPLEX}": len(tangled),
        "modules at the root of vfn": len(list(root.glob("vfn/*.py"))),
        "modules loaded by vfn.data.base": loaded_by_data(root),
        f"docstrings opening with {'/'.join(OPENINGS)}": badly,
    }


def measure_revision(revision: str) -> dict[str, float]:
    """Return the figures of another commit of this repository."""
    archive = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            opened.extractall(folder, filter="data")
        return measure(Path(folder))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--against", metavar="REVISION", help="show this commit's figures beside")
    parser.add_argument("--names", action="store_true", help="name the functions above the limits")
    args = parser.parse_args()
    columns = {"now": measure(ROOT, args.names)}
    if args.against:
        columns = {args.against: measure_revision(args.against), **columns}
    width = max(map(len, columns["now"]))
    print(" " * width, *(f"{name[:10]:>10}" for name in columns))
    for key in columns["now"]:
        print(f"{key:<{width}}", *(f"{figures[key]:>10g}" for figures in columns.values()))
    for key, value in columns["now"].items():
        if args.against:
            before = columns[args.against][key]
            print(f"RATIO {key.replace(' ', '_')} {value / before if before else float('nan'):.3f}")


if __name__ == "__main__":
    main()
