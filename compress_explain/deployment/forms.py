"""What a compressed model is written as, and in which of these forms it runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from compress_explain.errors import InputError, did_you_mean

Runtime = Literal["torch", "onnx", "compiled"]
Choice = Literal["torch", "onnx", "compiled", "auto"]
Artifact = Literal["checkpoint", "onnx", "dense", "program"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A model as one runtime computes it; ``scheme`` is how its linears are stored.

    >>> Form(runtime="compiled", scheme="bfloat16").name
    'compiled bfloat16'
    """

    runtime: Runtime
    scheme: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.scheme}"


TORCH = Form(runtime="torch")
ONNX = Form(runtime="onnx")
COMPILED = Form(runtime="compiled", scheme="bfloat16")


def check_forms(choice: str, artifacts: Sequence[str], quantizing: Sequence[str], *, timed: bool = False) -> None:
    """Refuse what is deployed or written if it is unknown, or cannot do what the rest of a job asks for.

    ``quantizing`` names the strategies that quantize; a ``timed`` job has a target.

    Raises:
        InputError: which, and what is known.
    """
    if choice not in get_args(Choice):
        raise InputError("runtime", choice, "unknown runtime", did_you_mean(choice, get_args(Choice)))
    for name in artifacts:
        if name not in get_args(Artifact):
            raise InputError("artifacts", name, "unknown artifact", did_you_mean(name, get_args(Artifact)))
    if choice == "compiled" and quantizing:
        problem = f"{quantizing[0]} quantizes linears, which only ONNX Runtime computes"
        remedy = "set runtime to onnx or auto, or leave that strategy out: bfloat16 quantizes nothing"
        raise InputError("runtime", choice, problem, remedy)
    if timed and choice in ("compiled", "auto"):
        problem = "what a target needs is foretold for torch and ONNX Runtime only"
        raise InputError("runtime", choice, problem, "set runtime to torch or onnx, or leave the target out")


def forms_for(choice: Choice, quantized: str | None) -> tuple[Form, ...]:
    """What may be deployed: one form, or with ``auto`` those of which the fastest will be.

    ``quantized`` is the scheme of the job's quantized linears; None where it quantizes none.
    """
    onnx = () if quantized is None else (Form(runtime="onnx", scheme=quantized),)
    if choice == "auto":
        return (TORCH, COMPILED, ONNX, *onnx)
    if onnx:
        return onnx
    return ({"torch": TORCH, "onnx": ONNX, "compiled": COMPILED}[choice],)


def spoken(measured: Mapping[str, Any]) -> str:
    """What a measurement says, the fastest first.

    >>> row = {"form": "torch float32", "milliseconds": 2.0, "low": 1.9, "high": 2.25}
    >>> spoken({"forms": [row], "tokens": 21, "batch": 1, "threads": 1})
    'torch float32 2 ms [1.9, 2.25], for 1 row of 21 tokens on 1 thread'
    """
    ordered = sorted(measured["forms"], key=lambda row: row["milliseconds"])
    each = (f"{row['form']} {row['milliseconds']:.3g} ms [{row['low']:.3g}, {row['high']:.3g}]" for row in ordered)
    size = f" of {measured['tokens']} tokens" if measured["tokens"] else ""
    threads = f"{measured['threads']} thread{'s' if measured['threads'] != 1 else ''}"
    return f"{', '.join(each)}, for {measured['batch']} row{size} on {threads}"


def refuse_without_compiler() -> None:
    """Raises InputError where there is no C++ compiler, without which torch compiles nothing for a CPU."""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise InputError(
            "compiler", "g++", "there is none on this machine", "install one (apt-get install g++), or deploy as ONNX"
        )
