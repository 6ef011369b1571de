"""Device and arithmetic of a command."""

from contextlib import AbstractContextManager

import torch

from vfn.errors import UserError, check_choice

PRECISIONS = ("auto", "bf16", "float32")


def has_fast_bf16(device: torch.device) -> bool:
    """Return True if bfloat16 is native there; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_tile"))


def pick_device(name: str) -> torch.device:
    """The device that `name` ("auto", "cpu", "cuda", "cuda:N") means here.

    Raises:
        UserError: not a device, or one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise UserError(f"device={name}: unknown; choose auto, cpu, cuda or cuda:N") from exc
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: not supported; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device={name}: {torch.cuda.device_count()} CUDA devices here; choose device=cpu"
        )
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """ "bf16" or "float32"; "auto" is bf16 where it is fast.

    Raises:
        UserError: unknown name.
    """
    check_choice("precision", name, PRECISIONS)
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "float32"
    return name


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
