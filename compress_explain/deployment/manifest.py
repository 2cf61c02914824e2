"""The manifest of an artifact: which of its files runs, and of every file what it is for and how to open it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from compress_explain.deployment.forms import Form, Runtime
from compress_explain.errors import InputError
from compress_explain.record.folder import write_json
from compress_explain.record.ledger import file_digest

MANIFEST = "manifest.json"
FORMAT = 1
_COPY_AGAIN = "copy the whole folder again from where it was made"
_CHECKPOINT = "compress_explain.load_compressed(FOLDER)"
_DEPLOYED = "compress_explain.load_deployed(FOLDER)"
_ONNX = 'onnxruntime.InferenceSession("FOLDER/model.onnx")'
_PROGRAM = 'torch.export.load("FOLDER/program.pt2").module()'
_DENSE = 'transformers.AutoModelFor….from_pretrained("FOLDER/dense")'
_INPUTS = 'transformers.AutoTokenizer.from_pretrained("FOLDER"), of images AutoImageProcessor'

# What a file is for, and how it is opened, by the end of its name; the first that fits.
_PURPOSES: tuple[tuple[str, str, str], ...] = (
    ("dense/model.safetensors", "The dense twin: the original's shapes with zeros where parts were removed, the same function for any loader.", _DENSE),
    ("dense/config.json", "The configuration of the dense twin.", _DENSE),
    ("model.safetensors", "The compressed weights, in layers of unequal shapes: to go on working with, or to run in torch.", _CHECKPOINT),
    ("compressed.json", "What was removed, in the original's coordinates: from it the layers get their shapes.", _CHECKPOINT),
    ("generation_config.json", "How the model generates.", _CHECKPOINT),
    ("config.json", "The model's configuration, with the original's sizes but for a smaller vocabulary.", _CHECKPOINT),
    ("model.onnx", "The model for ONNX Runtime, in any language.", _ONNX),
    ("model.onnx.data", "The weights of model.onnx, which finds them beside it.", _ONNX),
    ("compiled.pt2", "The model as machine code in bfloat16, for the kind of processor that it was compiled on.", _DEPLOYED),
    ("program.pt2", "The model as a program that torch alone opens: to be compiled or lowered elsewhere. Open only your own.", _PROGRAM),
    ("", "Makes the model's inputs of texts or images.", _INPUTS),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of an artifact: what it is ``for``, its bytes, its SHA-256, and how to open it."""

    file: str
    purpose: str
    load: str
    bytes: int
    sha256: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What runs, from which ``file``, and every file beside it.

    ``processor`` names what machine code needs of a processor.
    """

    form: Form
    file: str
    processor: tuple[str, ...] = ()
    files: tuple[File, ...] = field(repr=False)

    def check(self, folder: Path) -> Path:
        """The path of the file that runs.

        Raises:
            InputError: it is missing or another one.
        """
        path = folder / self.file
        known = {each.file: each.sha256 for each in self.files}
        names = [name for name in known if name == self.file or name.startswith(f"{self.file}.")]
        for name in [self.file, *names]:
            if not (folder / name).exists() or file_digest(folder / name) != known.get(name):
                raise InputError(
                    "artifact", str(folder / name), "not the file that the manifest describes", _COPY_AGAIN
                )
        return path


def write_manifest(folder: Path, form: Form, file: str, processor: tuple[str, ...] = ()) -> Manifest:
    """List every file of an artifact that is complete but for its manifest."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    manifest = Manifest(form=form, file=file, processor=processor, files=tuple(_file(path, folder) for path in paths))
    runs = {"file": file, "runtime": form.runtime, "scheme": form.scheme, "processor": list(processor)}
    write_json(
        folder / MANIFEST,
        {"format": FORMAT, "deployed": runs, "files": [asdict(each) for each in manifest.files]},
    )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact.

    Raises:
        InputError: there is none, it cannot be read, or it was written by a newer version.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError("artifact", str(folder), f"no {MANIFEST} here", "give a folder such as RUN_DIR/artifact")
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        if document["format"] > FORMAT:
            raise InputError("artifact", document["format"], "written by a newer version", "upgrade compress-explain")
        runs = document["deployed"]
        if runs["runtime"] not in get_args(Runtime) or Path(runs["file"]).name != runs["file"]:
            raise ValueError(runs)
        manifest = Manifest(
            form=Form(runtime=runs["runtime"], scheme=runs["scheme"]),
            file=runs["file"],
            processor=tuple(runs["processor"]),
            files=tuple(File(**each) for each in document["files"]),
        )
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError("artifact", str(path), "not a manifest", _COPY_AGAIN) from None
    return manifest


def _file(path: Path, folder: Path) -> File:
    name = path.relative_to(folder).as_posix()
    purpose, load = next((purpose, load) for end, purpose, load in _PURPOSES if name.endswith(end))
    if name.startswith("dense/"):
        load = load.replace('FOLDER")', 'FOLDER/dense")')
    return File(file=name, purpose=purpose, load=load, bytes=path.stat().st_size, sha256=file_digest(path))
