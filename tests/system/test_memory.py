"""What the process frees is there for the next tensor."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from vfn.system.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(20):  # 64 MB, which glibc would map anew each time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")
def test_freed_memory_is_taken_again_without_asking_the_system() -> None:
    faults = {
        way: int(subprocess.check_output([sys.executable, "-c", FAULTS, way], text=True))
        for way in ("kept", "as it is")
    }
    assert faults["kept"] < 100
    assert faults["as it is"] > 100, "nothing was to be mended"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from vfn.system import memory as heap

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_freed_memory()
