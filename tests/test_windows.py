"""On Windows there is no fcntl, no SIGHUP and no fork: the package must import, and signals must work."""

import os
import subprocess
import sys

from tests.cli import ROOT

# What others need at import is loaded before anything is hidden; then ours is imported once more.
IMPORT_ALL = """
import importlib, os, pkgutil, signal, sys
import vfn

def ours():
    found = pkgutil.walk_packages(vfn.__path__, "vfn.", onerror=print)
    return [module.name for module in found if not module.name.endswith("__main__")]

names = ours()
for name in names:
    importlib.import_module(name)
for name in [name for name in sys.modules if name == "vfn" or name.startswith("vfn.")]:
    del sys.modules[name]
for module in ("fcntl", "termios", "resource", "pwd", "grp", "pty"):
    sys.modules[module] = None
hidden = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGSTOP", "SIGCONT", "SIGXFSZ", "SIGALRM")
for name in hidden:
    delattr(signal, name)
signal.Signals = [number for number in signal.Signals if number.name not in hidden]
for name in ("fork", "register_at_fork", "killpg", "sysconf", "getuid", "mkfifo"):
    delattr(os, name)
for name in names:
    importlib.import_module(name)
from vfn.system.signals import TERMINATING, end_by_signals
end_by_signals()
print(len(names), [number.name for number in TERMINATING], end="")
"""


def test_every_module_imports_without_posix() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", IMPORT_ALL],
        cwd=ROOT, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, signals = done.stdout.split(" ", 1)
    assert int(count) > 100
    assert signals == "['SIGTERM']"
