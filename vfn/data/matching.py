"""Search paths for a regular expression that may backtrack for ever: a checkpoint carries one, too.

`re` cannot be interrupted within a thread, so a child process searches and is killed when its time is up.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from vfn.errors import UserError

SECONDS = 20.0  # an ordinary pattern takes some microseconds a path
PATHS_PER_SECOND = 10_000  # more time for large folders
_CHILD = """
import json, re, sys
pattern, texts = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
    found = [m and m.groupdict("") for m in map(compiled.search, texts)]
    answer = {"found": found}
except (re.error, RecursionError, OverflowError, MemoryError) as error:
    answer = {"error": str(error) or type(error).__name__}
json.dump(answer, sys.stdout)
"""


def search_all(pattern: str, texts: Sequence[str], key: str) -> list[dict[str, str] | None]:
    """Search each of `texts` for `pattern`.

    Args:
        key: the setting that gave the pattern, for messages.

    Returns:
        The named groups of each match, "" for those that took no part; None where nothing matches.

    Raises:
        UserError: not a regular expression, or it takes too long.
    """
    limit = SECONDS + len(texts) / PATHS_PER_SECOND
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps([pattern, list(texts)]),
            capture_output=True,
            encoding="ascii",
            timeout=limit,
            check=True,
        )
    except subprocess.TimeoutExpired as exc:
        raise UserError(
            f"{key}={pattern}: searched {len(texts)} paths for more than {limit:.0f} s and was stopped; "
            "avoid repeats within repeats, such as (a+)+"
        ) from exc
    except subprocess.CalledProcessError as exc:
        raise UserError(f"{key}={pattern}: the search failed ({exc})") from exc
    parsed = json.loads(answer.stdout)
    if "error" in parsed:
        raise UserError(f"{key}={pattern}: not a regular expression ({parsed['error']})")
    found: list[dict[str, str] | None] = parsed["found"]
    return found
