"""Everything a run needs, decided and checked before it starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from compress_explain.choosing.meters import Storage
from compress_explain.choosing.target import Target, check_open
from compress_explain.comparison.gates import EVERY, Gate, check_gates
from compress_explain.comparison.waivers import Waiver, check_waivers
from compress_explain.compensation import Compensation
from compress_explain.data.loading import Splits
from compress_explain.deployment.forms import Artifact, Choice, Form, check_forms, forms_for
from compress_explain.editing.masks import Masks
from compress_explain.errors import InputError
from compress_explain.model.embedding import TOKEN
from compress_explain.model.loading import Subject
from compress_explain.model.tasks import TEXT_TO_TEXT
from compress_explain.plugins.evaluator import Evaluator, Measuring, metrics_for
from compress_explain.plugins.registry import Registry
from compress_explain.plugins.strategy import Quantizing, Strategy, Tuning, check_order
from compress_explain.pricing import AuditPlan
from compress_explain.record.champion import Champion
from compress_explain.record.protocol import Protocol, described, protocol_of
from compress_explain.running.options import Attribution
from compress_explain.running.reinstate import Reinstatement
from compress_explain.vocabulary import Lexicon
from compress_explain.weight_edits import weight_edit

if TYPE_CHECKING:
    from compress_explain.deployment.scheme import Scheme


_ANSWERS = {"bound": "the bounds of answers", "neighbour": "what texts are near to"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One compression: a model, three splits, and the parts chosen for it."""

    subject: Subject
    splits: Splits
    strategies: Sequence[Strategy]
    evaluators: Sequence[Evaluator | Measuring]
    gates: Sequence[Gate]
    compensation: Compensation | None = field(default_factory=Compensation)
    reinstatement: Reinstatement = field(default_factory=Reinstatement)
    audit: AuditPlan = field(default_factory=AuditPlan)
    registries: Sequence[Registry] = ()
    seed: int = 0
    batch_size: int = 32
    redact: bool = False
    runtime: Choice = "torch"
    artifacts: Sequence[Artifact] = ("checkpoint",)
    target: Target | None = None
    priced_rows: int = 1024
    waivers: Sequence[Waiver] = ()
    champion: Champion | None = None
    attribution: Attribution = field(default_factory=Attribution)

    def __post_init__(self) -> None:
        check_open(self.strategies, self.target)
        quantizing = [type(each).__name__.lower() for each in self.strategies if isinstance(each, Quantizing)]
        if len(quantizing) > 1:
            raise InputError("strategies", quantizing, "a file has one scheme for its linears", "name one of them")
        check_order(self.strategies, timed=self.target is not None)
        check_forms(self.runtime, self.artifacts, quantizing, timed=self.target is not None)
        check_gates(self.gates, metrics_for(self.evaluators, self.subject.task), self.splits.slices)
        check_waivers(self.waivers, date.today())
        if self.champion is not None:
            self.champion.check(self.splits.test.digest)
        self._check_task()
        bare = self.splits.bare_slices
        if bare and any(gate.slice == EVERY for gate in self.gates):
            named = ", ".join(f"{name} (none in {split})" for name, split in list(bare.items())[:5])
            raise InputError(
                "gates: slice", EVERY, f"no row is in {len(bare)} of the declared slices: {named}",
                "give those splits such rows, or gate the other slices by name",
            )  # fmt: skip

    def _check_task(self) -> None:
        """Raises InputError for what cannot be done for a model that answers for words, tokens or bounds."""
        task, decides = self.subject.task, self.subject.kind.decides
        for each in self.strategies if self.subject.tokenwise else ():
            if TOKEN in each.kinds or isinstance(each, Tuning):
                name, answers = type(each).__name__.lower(), _ANSWERS.get(decides, "words or tokens")
                problem = f"a model for {task} answers for {answers}, not for rows"
                raise InputError("strategies", name, problem, "leave it out")
        near = self.splits.test.neighbours
        if near is not None and near.similarity is None and any(gate.metric == "spearman" for gate in self.gates):
            problem = "nobody said how alike texts are"
            raise InputError(
                "gates", "spearman", problem, "name the columns data.pair and data.label, or gate another metric"
            )
        if task != TEXT_TO_TEXT:
            return
        problem = "an encoder and a decoder that generates are two graphs, not one"
        if self.deploys_onnx or self.runtime == "compiled":
            runtime = "onnx" if self.deploys_onnx else self.runtime
            raise InputError("runtime", runtime, problem, "set runtime to torch, with no strategy that quantizes")
        graphs = [name for name in self.artifacts if name in ("onnx", "program")]
        if graphs:
            raise InputError("artifacts", graphs[0], problem, "leave it out")

    @property
    def scheme(self) -> Scheme | None:
        """How the linears that are quantized are stored in the deployed file."""
        return next((each.scheme for each in self.strategies if isinstance(each, Quantizing)), None)

    @property
    def deploys_onnx(self) -> bool:
        """Whether an ONNX file is deployed and judged: when it is asked for, or something is quantized."""
        return self.runtime == "onnx" or any(isinstance(each, Quantizing) for each in self.strategies)

    @property
    def forms(self) -> tuple[Form, ...]:
        """What may be deployed and judged: one form, or with the runtime ``auto`` those of which the fastest is."""
        return forms_for(self.runtime, None if self.scheme is None else self.scheme.name)

    @property
    def storage(self) -> Storage:
        """How the deployed file stores weights."""
        names = [name for each in self.strategies if isinstance(each, Quantizing) for name in each.weight_edits]
        bits = getattr(self.scheme, "embeddings", 32)
        if isinstance(bits, bool):  # a scheme of 16 bits stores tables so, or leaves them
            bits = 16 if bits else 32
        return Storage(edit=weight_edit(names[0]) if names else None, table_bits=bits)

    def lexicon(self, masks: Masks) -> Lexicon:
        """The tokens of the model under ``masks``."""
        splits = self.splits
        return Lexicon(
            masks=masks,
            tokenizer=self.subject.processor,
            calibration=splits.calibration,
            barred=frozenset((*splits.validation.texts, *splits.test.texts)),
            batch_size=self.batch_size,
        )

    @property
    def protocol(self) -> Protocol:
        """Under which the test rows are judged."""
        return protocol_of(
            self.splits.test, self.subject.processor, self.evaluators, batch_size=self.batch_size, seed=self.seed,
            precision=str(self.subject.model.dtype).removeprefix("torch."),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Every decision that shapes the result, as plain values."""
        return {
            "model": self.subject.source,
            "task": self.subject.task,
            "data": asdict(self.splits.spec) if self.splits.spec else None,
            "slices": [asdict(rule) for rule in self.splits.rules],
            "strategies": [described(strategy) for strategy in self.strategies],
            "evaluators": [described(evaluator) for evaluator in self.evaluators],
            "gates": [{key: value for key, value in asdict(gate).items() if value is not None} for gate in self.gates],
            "compensation": None if self.compensation is None else asdict(self.compensation),
            "reinstatement": asdict(self.reinstatement),
            "audit": asdict(self.audit),
            "attribution": asdict(self.attribution),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "runtime": self.runtime,
            "priced_rows": self.priced_rows,
            "artifacts": list(self.artifacts),
            "target": None if self.target is None else asdict(self.target),
            **({"waivers": [waiver.facts() for waiver in self.waivers]} if self.waivers else {}),
            **({"champion": self.champion.source} if self.champion else {}),
            **({} if self.subject.pooling is None else {"pooling": asdict(self.subject.pooling)}),
        }

    def identity(self) -> str:
        """A digest of model, data and settings: two runs with the same one are the same run."""
        facts = self.settings() | {
            "model_digest": self.subject.digest,
            "splits": {split.name: split.digest for split in self.splits},
            "slices": self.splits.slices,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
