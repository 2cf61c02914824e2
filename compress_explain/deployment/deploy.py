"""The file that will run, made from the compressed model, and what became of each linear in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pandas as pd
from transformers import PreTrainedModel

from compress_explain.anatomy import Anatomy
from compress_explain.deployment.export import check, export_onnx
from compress_explain.deployment.facts import LinearFacts
from compress_explain.deployment.float32 import Float32
from compress_explain.deployment.scheme import Following, Scheme
from compress_explain.examples import Examples
from compress_explain.weight_edits import Found

FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """An ONNX file of ``bytes`` bytes; ``difference`` is that of its float32 draft's logits from torch's, at most."""

    path: Path
    scheme: str
    opset: int
    bytes: int
    difference: float
    linears: dict[str, LinearFacts] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a linear: how it is stored, its bytes, and its SQNR in dB."""
        return pd.DataFrame([{"component": name, **asdict(facts)} for name, facts in self.linears.items()])


def deploy(
    model: PreTrainedModel,
    anatomy: Anatomy,
    examples: Examples,
    path: Path,
    *,
    scheme: Scheme | None = None,
    quantized: Mapping[str, str] | Collection[str] = (),
    found: Found = MappingProxyType({}),
) -> Deployed:
    """Write ``model`` to ``path`` with the linears in ``quantized`` stored as ``scheme`` says, the others in float32.

    ``anatomy`` is that of the original. The float32 draft is compared with the model on rows of
    ``examples``, on which a static scheme also finds its ranges. Where ``quantized`` says by which weight edit
    each linear was simulated, and ``found`` what was found to enter them in the original's coordinates, the
    file is written accordingly.

    Raises:
        InputError: the model cannot be deployed this way.
        ArtifactError: the file does not compute what the model computes.
    """
    chosen = scheme or Float32()
    if isinstance(chosen, Following) and isinstance(quantized, Mapping):
        chosen = chosen.following(quantized, found)
    with TemporaryDirectory() as folder:
        draft = export_onnx(model, examples, Path(folder) / FILE, anatomy=anatomy)
        difference = check(draft.path, model, examples)
        keep = [name for name in draft.linears if name not in quantized]
        facts = chosen.quantize(draft.path, path, keep=keep, calibration=examples)
    beside = path.with_name(path.name + ".data")
    size = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    return Deployed(path=path, scheme=chosen.name, opset=draft.opset, bytes=size, difference=difference, linears=facts)
