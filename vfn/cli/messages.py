"""Failures of Hydra and of its launchers, told in one line."""

import re
import sys
from collections.abc import Sequence

from vfn.cli.help import no_such, settings_of
from vfn.errors import nearest

LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "ray": "hydra-ray-launcher",
}  # Hydra's, and the packages that they come in


def config_message(exc: Exception, command: str) -> str:
    """Return Hydra's message in one line, with the nearest right name if there is one."""
    text = " ".join(str(exc).split())
    if missing := re.search(r"Could not override '([^']+)'", text):
        return _missing_key(missing[1], f"{text} {exc.__cause__}", command)
    missing_choice = re.search(
        r"Could not find '((?:hydra/)?\w+)/([^']+)'.*Available options in '[\w/]+':(.*)", text
    )
    if missing_choice:
        group, choice, options = missing_choice.groups()
        return _missing_choice(group, choice, options.split("Config search path")[0].split())
    if merging := re.search(r"Error merging override (.+)", text):
        return f"{merging[1]}: this setting takes another kind of value; --help shows an example"
    return text


def _missing_key(key: str, told: str, command: str) -> str:
    inner = re.search(r"Key '([^']+)' is not in struct", told)
    if key in settings_of(command) and inner and inner[1] != key.rpartition(".")[2]:
        name = f"{key}.{inner[1]}"  # of a table of names that a file gives
        return f"{name}: not in the file of that choice; add it by +{name}=VALUE"
    return no_such(key, command)


def _missing_choice(group: str, choice: str, names: Sequence[str]) -> str:
    if group == "hydra/launcher" and choice in LAUNCHERS:
        return f"{group}={choice}: not installed; pip install {LAUNCHERS[choice]}"
    near = nearest(choice, names)
    hint = f"did you mean {near}? " if near else ""
    return f"{group}={choice}: unknown; {hint}choose one of {', '.join(names)}"


def lost_job(exc: BaseException) -> str | None:
    """Return the message about a job that its queue ended: killed, out of time or of memory."""
    submitit = sys.modules.get("submitit.core.utils")
    if submitit is None or not isinstance(exc, submitit.UncompletedJobError):
        return None
    told = next(iter(str(exc).splitlines()), "")
    return (
        f"a job of the sweep was ended from outside, by its time limit perhaps ({told}); what it said is in "
        ".submitit of the sweep's folder, the other jobs go on, and resume=FOLDER goes on with it"
    )
