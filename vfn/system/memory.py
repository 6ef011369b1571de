"""Settings of glibc's allocator."""

import ctypes
import platform

# Of malloc.h: how blocks are taken from the system and given back.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEPT = 2**31 - 1  # bytes; the most that the call takes


def keep_freed_memory() -> bool:
    """Let this process keep freed memory, up to `KEPT` bytes, for reuse.

    glibc maps every block of 32 MB or more anew, and the kernel then fills it page by page with zeros,
    which for the features of whole fields takes several times as long as computing them.
    Several arenas would each keep their own. A freed block is not taken again at once but after
    seven of its size: what alignment cuts off of each stays behind it in a list of that length.

    Returns:
        True if the C library has these settings; otherwise nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        mallopt(setting, value) == 1
        for setting, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEPT), (M_ARENA_MAX, 1))
    )
