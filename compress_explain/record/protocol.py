"""What is fixed before two models are compared: the rows, how they are read and counted, and on which machine.

Two comparisons say things about each other only when their protocols are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress_explain.data.examples import Examples
from compress_explain.errors import InputError
from compress_explain.record.folder import write_json
from compress_explain.record.provenance import processor_name, version_of

PROTOCOL = "protocol.json"
FORMAT = 1
_PACKAGES = ("compress-explain", "torch", "transformers", "onnxruntime", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The parts of a protocol as plain values; its ``digest`` covers all but the ``versions`` of packages, which are told beside it.

    ``evaluators`` carry their own seeds, grids of batches and tokens, and warm-ups.
    """

    task: str
    data: Mapping[str, Any]
    slices: Mapping[str, int]
    evaluators: Sequence[Mapping[str, Any]]
    reading: Mapping[str, Any]
    running: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=lambda: {name: version_of(name) for name in _PACKAGES})

    @property
    def parts(self) -> dict[str, Any]:
        """What the digest covers, with values as JSON has them."""
        facts = {key: value for key, value in asdict(self).items() if key != "versions"}
        parts: dict[str, Any] = json.loads(json.dumps(facts, sort_keys=True))
        return parts

    @property
    def digest(self) -> str:
        """SHA-256 of its parts."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Write ``protocol.json`` into ``folder``."""
        path = folder / PROTOCOL
        write_json(
            path,
            {"format": FORMAT, "digest": self.digest, "protocol": self.parts, "versions": dict(self.versions)},
        )
        return path

    @classmethod
    def load(cls, folder: Path) -> Protocol:
        """That of a run or an evaluation.

        Raises:
            InputError: there is none, it was changed, or a newer version wrote it.
        """
        path = folder / PROTOCOL
        if not path.exists():
            raise InputError(
                "protocol", str(folder), f"no {PROTOCOL} here", "give the folder of a run or an evaluation"
            )
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] > FORMAT:
                raise InputError(
                    "protocol", document["format"], "written by a newer version", "upgrade compress-explain"
                )
            found = cls(**document["protocol"], versions=document["versions"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError("protocol", str(path), f"not a protocol ({error})", "restore it from a copy") from None
        if found.digest != document["digest"]:
            raise InputError("protocol", str(path), "it was changed after it was written", "restore it from a copy")
        return found

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """Where two are not the same: by dotted key, what this one and what the other says."""
        mine, theirs = _flat(self.parts), _flat(other.parts)
        keys = dict.fromkeys([*mine, *theirs])
        return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}


def protocol_of(
    test: Examples, processor: Any, evaluators: Sequence[Any], *, batch_size: int, seed: int, precision: str
) -> Protocol:
    """The protocol under which two models are compared on ``test``; ``processor`` is the original's."""
    return Protocol(
        task=test.task,
        data={"digest": test.digest, "rows": len(test), "left_out": test.left_out},
        slices={name: int(flags.sum()) for name, flags in test.slices.items()},
        evaluators=[described(each) for each in evaluators],
        reading={"processor": processor_digest(processor), "max_length": test.max_length},
        running={
            "batch_size": batch_size,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "precision": precision,
        },
        machine=machine(),
    )


def described(part: Any) -> dict[str, Any]:
    """A part that is its own configuration, as plain values with its name."""
    return {"name": type(part).__name__.lower(), **asdict(part)}


def machine() -> dict[str, Any]:
    """What figures of time depend on: the processor, its cores and their memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"processor": processor_name(), "cores": os.cpu_count(), "memory_gib": round(pages / 2**30)}


def processor_digest(processor: Any) -> str:
    """SHA-256 of what a tokenizer or an image processor does; of one that cannot be written out, of its class."""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
    elif hasattr(processor, "to_json_string"):
        text = processor.to_json_string()
    elif hasattr(processor, "get_vocab"):
        text = json.dumps(processor.get_vocab(), sort_keys=True)
    else:
        text = type(processor).__name__
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list):
        items = [(str(part["name"]) if isinstance(part, dict) and "name" in part else str(position), part)
                 for position, part in enumerate(value)]  # fmt: skip
    else:
        return {prefix: value}
    return {
        key: part for name, inner in items for key, part in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }
