"""The file that will run, made from the compressed model, and what became of each linear in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import pandas as pd
import torch
from transformers import PreTrainedModel

from compress_explain.data.examples import Examples
from compress_explain.deployment.compiled import CompiledRunner, TorchRunner, compile_package
from compress_explain.deployment.export import check, export_onnx, furthest, linears_left
from compress_explain.deployment.facts import LinearFacts, sqnr
from compress_explain.deployment.float32 import Float32
from compress_explain.deployment.forms import COMPILED, TORCH, Form
from compress_explain.deployment.processor import capabilities
from compress_explain.deployment.scheme import Following, Scheme
from compress_explain.errors import ArtifactError
from compress_explain.model.anatomy import Anatomy
from compress_explain.record.checkpoint import WEIGHTS
from compress_explain.weight_edits import Found, whole_name

FILE = "model.onnx"
COMPILED_FILE = "compiled.pt2"
_FURTHER = 4  # times as far from float32 as torch itself is in bfloat16, which adds in another order
_STEP = 2.0**-8  # of bfloat16, relative
_ROWS, _BATCH = 64, 16


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A form of ``bytes`` bytes; ``difference`` is that of a logit from torch's in float32, at most.

    Of an ONNX file it is that of its float32 draft. ``processor`` is what machine code needs.
    """

    path: Path
    form: Form
    bytes: int
    difference: float
    linears: dict[str, LinearFacts] = field(repr=False)
    opset: int | None = None
    processor: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a linear: how it is stored, its bytes, and its SQNR in dB."""
        return pd.DataFrame([{"component": name, **asdict(facts)} for name, facts in self.linears.items()])

    def facts(self) -> dict[str, object]:
        """What a ledger records of it; linears are counted by how they are stored."""
        stored = [facts.scheme for facts in self.linears.values()]
        return {
            "runtime": self.form.runtime, "scheme": self.form.scheme, "opset": self.opset, "bytes": self.bytes,
            "difference": self.difference, "linears": {name: stored.count(name) for name in dict.fromkeys(stored)},
        }  # fmt: skip


def deploy_checkpoint(model: PreTrainedModel, anatomy: Anatomy, artifact: Path) -> Deployed:
    """The checkpoint in ``artifact``, which holds ``model``, as what runs; nothing is written."""
    path = artifact / WEIGHTS
    linears = _plain(model, anatomy, torch.float32)
    return Deployed(path=path, form=TORCH, bytes=path.stat().st_size, difference=0.0, linears=linears)


def deploy_compiled(model: PreTrainedModel, anatomy: Anatomy, examples: Examples, path: Path) -> Deployed:
    """Compile ``model`` in bfloat16 to ``path``; on rows of ``examples`` it is about as far from float32 as torch in bfloat16.

    Raises:
        InputError: nothing can be compiled on this machine.
        ArtifactError: torch cannot compile the model, or the package computes something else.
    """
    compile_package(model, examples, path)
    rows = examples.draw(_ROWS, seed=0)
    eager, largest = furthest(TorchRunner(model=model, dtype="bfloat16"), model, rows, _BATCH)
    difference, _ = furthest(CompiledRunner(path=path), model, rows, _BATCH)
    allowed = _FURTHER * max(eager, _STEP * largest)
    if not difference <= allowed:
        raise ArtifactError(
            f"{path}: its logits differ from the model's by up to {difference:.2g}, where {allowed:.2g} is rounding to "
            "bfloat16. Remedy: deploy it as ONNX"
        )
    return Deployed(
        path=path, form=COMPILED, bytes=path.stat().st_size, difference=difference,
        linears=_plain(model, anatomy, torch.bfloat16), processor=capabilities(),
    )  # fmt: skip


def _plain(model: PreTrainedModel, anatomy: Anatomy, dtype: torch.dtype) -> dict[str, LinearFacts]:
    """Linears that are only rounded to another number format."""
    found = {}
    for name, module in linears_left(model, anatomy).items():
        weight: torch.Tensor = model.get_submodule(module).weight.detach()  # type: ignore[union-attr,operator,assignment]
        rounded = weight.to(dtype)
        found[name] = LinearFacts(
            scheme=str(dtype).removeprefix("torch."), bits=8 * rounded.element_size(), bytes=rounded.nbytes, digest="",
            sqnr=sqnr(weight.float().numpy(), rounded.float().numpy()),
        )  # fmt: skip
    return found


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
    file is written accordingly. Of a linear that is factored both parts are quantized.

    Raises:
        InputError: the model cannot be deployed this way.
        ArtifactError: the file does not compute what the model computes.
    """
    chosen = scheme or Float32()
    if isinstance(chosen, Following) and isinstance(quantized, Mapping):
        parts = {
            part: quantized[whole_name(part)] for part in linears_left(model, anatomy) if whole_name(part) in quantized
        }
        chosen = chosen.following(parts, found)
    with TemporaryDirectory() as folder:
        draft = export_onnx(model, examples, Path(folder) / FILE, anatomy=anatomy)
        difference = check(draft.path, model, examples)
        keep = [name for name in draft.linears if whole_name(name) not in quantized]
        facts = chosen.quantize(draft.path, path, keep=keep, calibration=examples)
    beside = path.with_name(path.name + ".data")
    size = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    form = Form(runtime="onnx", scheme=chosen.name)
    return Deployed(path=path, form=form, opset=draft.opset, bytes=size, difference=difference, linears=facts)
