"""Storing the compressed model, and proving that what the store gives back is the same model."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from transformers import AutoTokenizer, PreTrainedModel

from compress_explain.deployment import Runner, TorchRunner
from compress_explain.deployment.answering import answered, embedded, found_in, loss_of, of_words
from compress_explain.errors import InputError
from compress_explain.model.pooling import Pooling
from compress_explain.model.tasks import TEXT_TO_TEXT, task_of
from compress_explain.record.checkpoint import load_compressed, read_manifest
from compress_explain.record.outcome import Run
from compress_explain.running.opening import load_deployed

from .description import model_name
from .names import slug, tag
from .uploads import files_below, upload_missing

NEW_TOKENS = 20  # unless a request says otherwise
LONGEST = 1 << 30  # tokens, where a model does not say how many it takes
TOLERANCE = 1e-5  # of a logit, or of the largest logit where that is above 1
TEXTS = (
    "It works.",
    "The second half is slow, but nobody who stays to the end will regret it.",
    "I would not recommend this to anyone: too long, too loud and never once funny.",
    "",
)
QUESTION = "What is it like?"
_CODE = Path(__file__).with_name("served_model.py")
_REQUIRED = ("compress-explain", "torch", "transformers", "onnxruntime", "mlflow")


def store_model(client: MlflowClient, run: Run, experiment_id: str, run_id: str) -> LoggedModel:
    """The run's logged model, complete and checked; one that is ready already is left as it is.

    Raises:
        InputError: the store gives back another model than it was given.
    """
    model = _find(client, run, experiment_id) or _create(client, run, experiment_id, run_id)
    _link(client, run_id, model.model_id)
    if model.status != LoggedModelStatus.READY:
        _upload(client, run, run_id, model)
        check_round_trip(client, run, model)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model


def check_round_trip(client: MlflowClient, run: Run, model: LoggedModel) -> float:
    """The largest difference of a logit between the stored model and the artifact.

    Raises:
        InputError: it is beyond :data:`TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=model.artifact_location, dst_path=folder, tracking_uri=client.tracking_uri
        )
        served = mlflow.pyfunc.load_model(local)
        inputs, expected = judged(run.folder / "artifact")
        found = figures_of(served.predict(inputs))
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        problem = f"the stored model differs from the artifact by up to {difference:.2g} in a logit"
        remedy = f"delete it in MLflow, then: compress-explain publish {run.folder}"
        raise InputError("mlflow: model", model.model_uri, problem, remedy)
    return difference


def figures_of(answer: Any) -> np.ndarray:
    """The figures of what a stored model gave: embeddings as they are, of others logits or losses."""
    return answer if isinstance(answer, np.ndarray) else answer.filter(regex="^logit:|^nll$").to_numpy()


def judged(artifact: Path) -> tuple[Any, np.ndarray]:
    """A few fixed inputs, and the logits of what was judged on them."""
    model, runner = load_compressed(artifact), load_deployed(artifact)
    inputs, expected = reference(model, artifact)
    if isinstance(runner, TorchRunner):
        return inputs, expected
    several = answers(runner, model, artifact)
    if several is not None:
        return several
    if isinstance(inputs, pd.DataFrame):  # all at once: a quantized row depends on those beside it
        tokenizer = AutoTokenizer.from_pretrained(artifact)
        batch = dict(tokenizer(list(inputs["text"]), padding=True, return_tensors="pt"))
    else:
        batch = {"pixel_values": torch.from_numpy(inputs)}
    return inputs, runner(batch)


def reference(model: PreTrainedModel, folder: Path) -> tuple[Any, np.ndarray]:
    """A few fixed inputs, and the model's logits on them, one at a time and without padding."""
    several = answers(TorchRunner(model=model, threads=torch.get_num_threads()), model, folder)
    if several is not None:
        return several
    if model.main_input_name != "input_ids":
        shape = (2, *_image_shape(model))
        pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return pixels, _alone(model, [{"pixel_values": torch.from_numpy(image[None])} for image in pixels])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [text for text in TEXTS if tokenizer(text)["input_ids"]]
    return pd.DataFrame({"text": texts}), _alone(model, [dict(tokenizer(text, return_tensors="pt")) for text in texts])


def answers(compute: Runner, model: PreTrainedModel, folder: Path) -> tuple[pd.DataFrame, np.ndarray] | None:
    """The same of what answers for words, tokens or bounds, or embeds; None of what answers for rows."""
    task = task_of(type(model).__name__)
    if task.decides == "row":
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = min(getattr(model.config, "max_position_embeddings", None) or LONGEST, tokenizer.model_max_length)
    if task.name == TEXT_TO_TEXT:
        texts, start = [text for text in TEXTS if text], model.config.decoder_start_token_id
        losses = [answered(compute, tokenizer, text, limit, NEW_TOKENS, start)[1] for text in texts]
        figures = np.array(losses, dtype=np.float32)[:, None]
    elif task.decides == "neighbour":
        texts, pooling = [text for text in TEXTS if text], Pooling(**read_manifest(folder)["provenance"]["pooling"])
        figures = np.stack([embedded(compute, tokenizer, text, limit, pooling) for text in texts])
    elif task.decides == "bound":
        texts, how = [text for text in TEXTS if text], read_manifest(folder)["provenance"]["answers"]
        losses = [found_in(compute, tokenizer, QUESTION, text, limit, **how).nll for text in texts]
        asked = pd.DataFrame({"question": QUESTION, "context": texts})
        return asked, np.array(losses, dtype=np.float32)[:, None]
    elif task.decides == "word":
        texts = [text for text in TEXTS if text]
        figures = np.concatenate([of_words(compute, tokenizer, text, limit)[1] for text in texts])
    else:
        texts = [text for text in TEXTS if len(tokenizer(text)["input_ids"]) > 1]
        figures = np.array([[loss_of(compute, tokenizer, text, limit)] for text in texts], dtype=np.float32)
    return pd.DataFrame({"text": texts}), figures


def _alone(model: PreTrainedModel, inputs: list[dict[str, torch.Tensor]]) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(**each).logits.float().numpy() for each in inputs])


def _image_shape(model: PreTrainedModel) -> tuple[int, int, int]:
    size = model.config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return model.config.num_channels, height, width


def _find(client: MlflowClient, run: Run, experiment_id: str) -> LoggedModel | None:
    found = client.search_logged_models([experiment_id], f"tags.`{tag('ledger_head')}` = '{run.ledger.head}'")
    return found[0] if found else None


def _create(client: MlflowClient, run: Run, experiment_id: str, run_id: str) -> LoggedModel:
    facts = run.summary
    return client.create_logged_model(
        experiment_id,
        name=f"{slug(model_name(run))}-compressed",
        source_run_id=run_id,
        model_type=facts["settings"]["task"],
        tags={tag("ledger_head"): run.ledger.head, tag("state"): facts["state"]},
        params={
            "compressed_from": str(facts["settings"]["model"])[:500],
            "parameters": str(facts["parameters"]["compressed"]),
            "flops": str(facts["flops"]["compressed"]),
        },
    )


def _link(client: MlflowClient, run_id: str, model_id: str) -> None:
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def _upload(client: MlflowClient, run: Run, run_id: str, model: LoggedModel) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        _save(run, folder, Model(run_id=run_id, model_uuid=model.model_id, model_id=model.model_id))
        upload_missing(
            files_below(folder),
            there=partial(client.list_logged_model_artifacts, model.model_id),
            send=partial(client.log_model_artifact, model.model_id),
        )


def _save(run: Run, folder: Path, facts: Model) -> None:
    artifact = run.folder / "artifact"
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(_CODE),
        artifacts={"compressed": str(artifact)},
        signature=_signature(load_compressed(artifact)),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIRED],
        mlflow_model=facts,
    )
    python = facts.flavors["python_function"]
    python["model_code_path"] = _CODE.name
    python["artifacts"]["compressed"]["uri"] = "artifact"  # not where it lay on this machine
    facts.save(folder / "MLmodel")
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _signature(model: PreTrainedModel) -> ModelSignature:
    if model.main_input_name == "input_ids":
        inputs = Schema([ColSpec("string", "text")])
    else:
        inputs = Schema([TensorSpec(np.dtype(np.float32), (-1, *_image_shape(model)))])
    task = task_of(type(model).__name__)
    if task.decides == "token":
        made = "answer" if task.name == TEXT_TO_TEXT else "continuation"
        outputs = Schema([ColSpec("double", "nll"), ColSpec("string", made)])
        params = ParamSchema([ParamSpec("max_new_tokens", "long", NEW_TOKENS)])
        return ModelSignature(inputs=inputs, outputs=outputs, params=params)
    if task.decides == "neighbour":
        return ModelSignature(
            inputs=inputs, outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, model.config.hidden_size))])
        )
    if task.decides == "bound":
        inputs = Schema([ColSpec("string", "question"), ColSpec("string", "context")])
        kinds = {"answer": "string", "start": "long", "end": "long", "nll": "double"}
        return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(kind, name) for name, kind in kinds.items()]))
    labels = [str(label) for _, label in sorted((model.config.id2label or {}).items())]
    columns: list[ColSpec | TensorSpec] = [
        *([ColSpec("long", "row"), ColSpec("string", "word")] if task.decides == "word" else []),
        *(ColSpec("float", f"logit:{label}") for label in labels),
        ColSpec("string", "label"),
    ]
    return ModelSignature(inputs=inputs, outputs=Schema(columns))
