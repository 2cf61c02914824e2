"""What this machine's processor can do."""

from __future__ import annotations

import torch


def saturates() -> bool:
    """Whether 8-bit products are summed in 16 bits, which overflow: x86 without VNNI."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not (able["avx512_vnni"] or able["avx_vnni"])


def capabilities() -> tuple[str, ...]:
    """The processor's architecture and its instruction sets, of which machine code made here may use any."""
    able = torch.cpu.get_capabilities()
    return (str(able["architecture"]), *sorted(name for name, value in able.items() if value is True))
