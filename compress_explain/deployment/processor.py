"""What this machine's processor can do with few bits."""

from __future__ import annotations

import torch


def saturates() -> bool:
    """Whether 8-bit products are summed in 16 bits, which overflow: x86 without VNNI."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not (able["avx512_vnni"] or able["avx_vnni"])
