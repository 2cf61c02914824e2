"""The steps of a run. Each is recorded when it is done and read back, not repeated, on resuming."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file
from transformers import AutoTokenizer

from compress_explain.choosing.activations import (
    Ranges,
    find_activations,
    load_activations,
    passes_of,
    save_activations,
)
from compress_explain.choosing.channel_worth import worth_of
from compress_explain.choosing.factoring import factored_facts
from compress_explain.choosing.latency_table import LatencyTable
from compress_explain.choosing.spectra import find_spectra, menu_now
from compress_explain.comparison.decided import Decided, Forward, decide_all
from compress_explain.comparison.gates import Verdict, judge, overall
from compress_explain.comparison.predictions import Pairs, logits_of, paired
from compress_explain.comparison.scores import Score
from compress_explain.compensation import Compensator, summed_up
from compress_explain.data.examples import ALL, Examples
from compress_explain.data.perturbed import perturbed
from compress_explain.deployment.forms import TORCH, refuse_without_compiler
from compress_explain.deployment.manifest import read_manifest
from compress_explain.editing.dense import refuse_norms_after
from compress_explain.editing.edits import Edit, Plan
from compress_explain.editing.masks import Masks
from compress_explain.editing.narrowed_stream import silent_channels
from compress_explain.editing.refits import (
    Refits,
    load_factors,
    load_refits,
    refitted_factors,
    save_factors,
    save_refits,
)
from compress_explain.editing.surgery import expected_parameters, materialize
from compress_explain.errors import EditError, InputError
from compress_explain.inquiry import tokens_of
from compress_explain.model.anatomy import Anatomy, Layer, read_anatomy
from compress_explain.model.embedding import TOKEN
from compress_explain.model.stream import CHANNEL
from compress_explain.plugins.strategy import Factorizing, Narrowing, Situation, Stepwise, Strategy, Worth, check_fit
from compress_explain.pricing import (
    MOVES,
    Joint,
    Menu,
    Prices,
    Refinement,
    Sample,
    audit,
    expected_joint,
    observed_joint,
    price,
    share_of,
    together,
)
from compress_explain.pricing.channels import of_channels
from compress_explain.progress import Progress
from compress_explain.record.checkpoint import save_compressed
from compress_explain.record.folder import open_folder
from compress_explain.record.ledger import Ledger
from compress_explain.record.provenance import environment
from compress_explain.record.replay import applied_plans
from compress_explain.record.traced import record_stream, with_stream_of
from compress_explain.running.channels_back import AT_ONCE, blocks_gone, channels_back
from compress_explain.running.job import Job
from compress_explain.running.opening import load_deployed
from compress_explain.running.reinstate import choose_restorations, tokens_back
from compress_explain.running.timing import latency_of, timed
from compress_explain.tuning import Recipe, Tuner, lessons_for
from compress_explain.vocabulary import Lexicon, read_by
from compress_explain.weight_edits import Factors

REFINEMENT = Refinement()
DEPLOYED = "deployed"  # the step in which what will be deployed is seen on validation
_COMPARED = 256  # rows on which a checkpoint is compared with the masked model


@dataclass
class Session:
    """One run under way: the untouched model, the masks over it, and the ledger of what happened."""

    job: Job
    ledger: Ledger
    progress: Progress
    anatomy: Anatomy
    masks: Masks
    originals: dict[str, Decided] = field(default_factory=dict, repr=False)
    work: dict[str, int] = field(
        default_factory=dict, repr=False
    )  # by quantized linear: the FLOPs that it is faster by
    recipe: Recipe | None = None  # that what is left was tuned by
    worth: Worth | None = None  # of the channels of the stream, for the plan at hand
    _before: dict[str, tuple[Refits, Mapping[str, Factors]]] = field(
        default_factory=dict, repr=False
    )  # by step: what was refitted and factored before it

    @property
    def folder(self) -> Path:
        return self.ledger.path.parent

    @property
    def evaluations(self) -> int:
        """Full evaluations of a compressed or original model so far."""
        return len(self.ledger.of_kind("predicted"))

    def start(self) -> None:
        """Record what is about to be compressed, with what, and where."""
        if self.ledger.find("started", "start"):
            self.progress.say("resuming: steps that are recorded are not repeated")
            return
        subject = self.job.subject
        body = {
            "identity": self.job.identity(),
            "settings": self.job.settings(),
            "model": {"source": subject.source, "digest": subject.digest, "class": self.anatomy.model_class,
                      "parameters": self.anatomy.parameters, "flops": self.anatomy.flops, "tokens": self.anatomy.tokens},
            "splits": {split.name: {"digest": split.digest, "rows": len(split), "truncated": split.truncated,
                                    "left_out": split.left_out}
                       for split in self.job.splits},
            "environment": environment(),
        }  # fmt: skip
        self.ledger.append("started", "start", body)

    @cached_property
    def priced(self) -> Examples:
        """The rows of calibration that price."""
        return self.job.splits.calibration.draw(self.job.priced_rows, self.job.seed)

    def prices_for(self, step: str, strategy: Strategy) -> tuple[Prices, Prices | None]:
        """What ``strategy`` chooses from, on calibration and, if it goes in small steps, on unfamiliar texts too."""
        menu = menu_now(self.masks, strategy)
        if not isinstance(strategy, Stepwise):
            return self.price(step, self.read(self.priced), menu), None
        some = self.read(self.priced.draw(strategy.rows, self.job.seed))
        new = perturbed(some, self.job.seed)
        if new is some:
            return self.price(step, some, menu, refinement=None), None
        prices = self.price(step, some, menu, refinement=None, moves=0)
        return prices, self.price(f"{step}-unfamiliar", new, menu, refinement=None)

    def price(
        self,
        step: str,
        examples: Examples,
        menu: Menu | None = None,
        *,
        refinement: Refinement | None = REFINEMENT,
        moves: int = MOVES,
    ) -> Prices:
        """Price every edit of ``menu``, or one on every component, in the present state, on examples as it reads them."""
        path, record = self._table(f"prices-{step}"), self.ledger.find("priced", step)
        if record and any(plan.seq > record.seq for plan in self.ledger.of_kind("planned")):
            return Prices.load(path)  # without the moves, which only a plan that is still to be made needs
        with self.progress.track(f"pricing ({step})", len(examples)) as advance:
            prices = price(
                self.masks, examples, menu=menu, batch_size=self.job.batch_size, refinement=refinement,
                flow=step == "start", moves=moves, advance=advance,
            )  # fmt: skip
        if record:
            return prices
        prices.save(path)
        body = {"split": examples.name, "rows": len(examples), "components": len(prices.components)}
        self.ledger.append("priced", step, body, (path,))
        return prices

    def find_activations(self, step: str, ranges: Ranges | None) -> None:
        """Find out what enters the linears of the model as it is now, where an edit asks for it."""
        if ranges is None:
            return
        path = self.folder / "tensors" / f"activations-{step}.safetensors"
        if not self.ledger.find("ranged", step):
            rows = self.read(self.job.splits.calibration)
            with self.progress.track(f"ranges of activations ({step})", len(rows) * passes_of(ranges)) as advance:
                found = find_activations(self.masks, rows, ranges, batch_size=self.job.batch_size, advance=advance)
            save_activations(found, path)
            body = {"split": rows.name, "rows": len(rows), "linears": len(found), **asdict(ranges)}
            self.ledger.append("ranged", step, body, (path,))
        self.masks.activations = load_activations(path)

    def find_spectra(self, step: str, strategy: Strategy) -> None:
        """Take the weights of linears apart along what enters them, where a strategy may factor them."""
        self.masks.spectra = {}
        if not isinstance(strategy, Factorizing) or self.ledger.find("applied", step):
            return
        rows, menu = self.read(self.job.splits.calibration), menu_now(self.masks, strategy)
        with self.progress.track(f"what enters linears ({step})", len(rows)) as advance:
            self.masks.spectra = find_spectra(self.masks, rows, menu, batch_size=self.job.batch_size, advance=advance)

    def find_worth(self, step: str, strategy: Strategy) -> None:
        """Find out what the channels of the stream are worth, where a strategy removes some."""
        self.worth = None
        if not isinstance(strategy, Narrowing) or self.ledger.find("planned", step):
            return
        rows, job = self.read(self.job.splits.calibration), self.job
        with self.progress.track(
            f"what channels are worth ({step})", min(len(rows), strategy.gradient_rows)
        ) as advance:
            self.worth = worth_of(self.masks, rows, strategy, batch_size=job.batch_size, seed=job.seed, advance=advance)

    def audit(self) -> None:
        """Make a sample of the edits one by one on some calibration rows, beside what was expected there."""
        plan, path = self.job.audit, self._table("audit")
        if plan.empty or self.ledger.find("audited", "start"):
            return
        rows = self.job.splits.calibration.draw(plan.rows, self.job.seed)
        with self.progress.track("pricing the rows of the audit", len(rows)) as advance:
            prices = price(self.masks, rows, batch_size=self.job.batch_size, refinement=Refinement(), advance=advance)
        sample = Sample(heads=plan.heads, neurons=plan.neurons, seed=self.job.seed)
        with self.progress.track("auditing the price", len(rows) * len(sample.of(prices))) as advance:
            audited = audit(self.masks, rows, prices, sample, batch_size=self.job.batch_size, advance=advance)
        audited.save(path)
        body = {"split": rows.name, "rows": len(rows), "edits": len(sample.of(prices)), "quality": audited.summary()}
        self.ledger.append("audited", "start", body, (path,))

    def situation(
        self, prices: Prices, unfamiliar: Prices | None = None, round_number: int = 0, rounds: int | None = None
    ) -> Situation:
        """What a strategy decides on in this round of so many."""
        return Situation(
            anatomy=self.anatomy, prices=prices, unfamiliar=unfamiliar, removed=self.masks.removed, round=round_number, rounds=rounds,
            quantized=self.masks.quantized, lexicon=self.lexicon, storage=self.job.storage, latency=self.latency,
            milliseconds=self.milliseconds, ranks=self.masks.ranks, spectra=self.masks.spectra,
            channels=self.worth,
        )  # fmt: skip

    def propose(self, step: str, author: str, decide: Callable[[], tuple[Edit, ...]]) -> Plan:
        """Let ``decide`` make a plan and record it before anything is changed."""
        path = self._table(f"edits-{step}")
        if self.ledger.find("planned", step):
            return Plan.from_frame(pd.read_parquet(path), step=step, author=author)
        edits = decide()
        plan = Plan(step=step, author=author, edits=edits)
        plan.to_frame().to_parquet(path, index=False)
        body = {"author": author, "action": edits[0].action if edits else "none", "counts": plan.counts(),
                "flops_saved": plan.flops_saved, "parameters_saved": plan.parameters_saved}  # fmt: skip
        if self.lexicon.rehearsals:
            body["vocabulary"] = self.lexicon.rehearsals.pop().facts
        if self.latency is not None:
            body["milliseconds"] = self.latency.predict(self.masks.removed_after(plan.of("remove"), plan.of("restore")))
        self.ledger.append("planned", step, body, (path,))
        return plan

    def apply(self, plan: Plan, before: Pairs) -> Joint:
        """Price the plan as a whole on validation, from its state ``before``, then switch its components by mask."""
        record = self.ledger.find("applied", plan.step)
        if record is None:
            validation = self.job.splits.validation
            with self.progress.track(f"expected effect of the whole ({plan.step})", len(validation)) as advance:
                joint = expected_joint(
                    self.masks, self.read(validation), plan.of_components, before.compressed, self.job.batch_size,
                    advance, linears=plan.edits_of_linears,
                )[ALL]  # fmt: skip
            of_tokens = self._expected_of_tokens(plan)
            others = plan.of_components or plan.edits_of_linears
            joint = joint if of_tokens is None else together(joint, of_tokens) if others else of_tokens
            self._refuse_idle_edits(plan)
            self._switch(plan)
            self.ledger.append("applied", plan.step, {"expected": asdict(joint)})
            return joint
        self._switch(plan)
        return Joint(**record.body["expected"])

    def compensate(self, plan: Plan, pairs: Pairs, *, passing: bool = False) -> Pairs:
        """Refit what is left to make up for what is gone now, and observe that; ``pairs`` are from before.

        In ``passing``, with more of the same to come, it is done on fewer rows.
        """
        step = plan.step
        if not plan.calls_for_refits or (self._compensator is None and self.recipe is None):
            return pairs
        self.refit(plan, passing=passing)
        after = self.observe(f"{step}-refitted")
        if not self.ledger.find("compensated", step):
            self.ledger.append("compensated", step, {"observed": asdict(observed_joint(pairs, after))})
        return after

    def refit(self, plan: Plan, *, passing: bool = False) -> None:
        """Put the weights in place that make up best for what is gone now; what was tuned is tuned again, briefly."""
        step = plan.step
        if not plan.calls_for_refits:
            return
        if self.recipe is not None:
            self._tune(step, self.recipe, self.recipe.again)
            return
        compensator = self._passing_compensator if passing else self._compensator
        if compensator is None:
            return
        table, tensors = self._table(f"refits-{step}"), self.folder / "tensors" / f"refits-{step}.safetensors"
        if not self.ledger.find("refitted", step):
            with self.progress.track(f"compensating ({step})", len(self.anatomy.layers)) as advance:
                repairs = compensator.refit(advance, anew=not passing and self._fitted_in_passing)
            pd.DataFrame([asdict(repair) for repair in repairs]).to_parquet(table, index=False)
            factors = {self.anatomy.linears[name].module: each for name, each in self.masks.factors.items()}
            save_refits(self.masks.refits, self.anatomy, self.masks.removed, tensors, factors)
            rows = compensator.examples
            body = {"split": rows.name, "rows": len(rows), "passing": passing, "linears": len(self.masks.refits),
                    **summed_up(repairs)}  # fmt: skip
            self.ledger.append("refitted", step, body, (table, tensors))
        self._put(tensors)

    def tune(self, step: str, recipe: Recipe, before: Pairs) -> Pairs:
        """Let what is left learn from the original, and observe that; ``before`` is from before it."""
        self.recipe = recipe
        self._tune(step, recipe)
        after = self.observe(step)
        change = observed_joint(before, after)
        self.progress.say(
            f"{step}: tuned; loss {change.loss_change:+.4f}, accuracy on {after.split} now {after.compressed_right.mean():.4f}"
        )
        return after

    def _tune(self, step: str, recipe: Recipe, share: float = 1.0) -> None:
        table, tensors = self._table(f"tuned-{step}"), self.folder / "tensors" / f"tuned-{step}.safetensors"
        under_way = self.folder / "tensors" / f"tuning-{step}.safetensors"
        if not self.ledger.find("tuned", step):
            validation, words = self.job.splits.validation, self.job.subject.task == "text-classification"
            calibration, seed = self.job.splits.calibration, self.job.seed
            tuner = Tuner(
                masks=self.masks, recipe=recipe, share=share, path=under_way, validation=self.read(validation),
                lessons=lessons_for(recipe, calibration, self.lexicon, words=words, seed=seed),
                original=self.untouched(validation),
            )  # fmt: skip
            with self.progress.track(f"tuning ({step})", tuner.rows) as advance:
                tuned = tuner.run(advance)
            tuned.to_frame().to_parquet(table, index=False)
            save_file(tuned.tensors, tensors)
            self.ledger.append("tuned", step, tuned.facts(), (table, tensors))
        under_way.unlink(missing_ok=True)
        self._put(tensors)

    def _put(self, tensors: Path) -> None:
        """Compute with what the file holds, at once and on resuming, so that both compute alike."""
        with self.masks.untouched():
            refits = load_refits(self.masks.model, self.anatomy, self.masks.removed, tensors)
        factors = refitted_factors(self.masks.factors, self.anatomy, self.masks.removed, tensors)
        self.masks.refit(refits, factors)

    @cached_property
    def _compensator(self) -> Compensator | None:
        """It reads calibration as the original cuts it, so that both can be compared token by token."""
        calibration, chosen = self.job.splits.calibration, self.job.compensation
        return None if chosen is None else Compensator(self.masks, calibration, chosen, self.job.batch_size)

    @cached_property
    def _passing_compensator(self) -> Compensator | None:
        chosen = self.job.compensation
        if chosen is None or chosen.rows_a_round >= len(self.job.splits.calibration):
            return self._compensator
        rows = self.job.splits.calibration.draw(chosen.rows_a_round, self.job.seed)
        return Compensator(self.masks, rows, chosen, self.job.batch_size)

    @property
    def _fitted_in_passing(self) -> bool:
        """Whether the weights of now were fitted to fewer rows than there are."""
        fitted = self.ledger.of_kind("refitted")
        fewer = self._passing_compensator is not self._compensator
        return bool(fitted) and fewer and fitted[-1].body["passing"]

    def revert(self, plan: Plan) -> None:
        """Switch a plan's components back: it did not do what it was tried for."""
        if not self.ledger.find("reverted", plan.step):
            self.ledger.append("reverted", plan.step, {"counts": plan.counts(), "why": "a gate no longer held"})
        self._switch_back(plan)
        self.masks.refit(*self._before[plan.step])

    def restorations(self, step: str, verdicts: Sequence[Verdict], allowance: float, most: float) -> tuple[Edit, ...]:
        """What to put back, worth at most ``allowance`` FLOPs (one component: ``most``), priced for every gate at once.

        Of channels the first few blocks are tried; they also come back when nothing is seen to help. Tokens come last:
        calibration does not use them and cannot price them.
        """
        calibration, plans = self.read(self.priced), list(applied_plans(self.ledger))
        blocks = blocks_gone(plans, self.masks, self.block)
        with self.progress.track(f"pricing restorations ({step})", len(calibration)) as advance:
            chosen = choose_restorations(
                self.masks, calibration, verdicts, flops=allowance, most=most, blocks=blocks[:AT_ONCE],
                reserve=self.job.reinstatement.reserve, batch_size=self.job.batch_size, work=self.work, advance=advance,
            )  # fmt: skip
        return chosen or channels_back(blocks, self.masks, flops=allowance, most=most) or tokens_back(plans, self.masks)

    @property
    def block(self) -> int:
        """In how many at a time channels are put back."""
        return next((each.multiple_of for each in self.job.strategies if isinstance(each, Narrowing)), 1)

    def at_whole_block(self, edits: Sequence[Edit], place: int) -> int:
        """The last place up to ``place`` before which all channels come in whole blocks."""
        before = sum(edit.kind == CHANNEL for edit in edits[:place])
        while place and before % self.block:
            place -= 1
            before -= edits[place].kind == CHANNEL
        return place

    def observe(self, step: str) -> Pairs:
        """Predictions of the masked model on validation, beside the original's."""
        validation = self.job.splits.validation
        return self._predictions(step, validation, logits_of(self.job.subject.model), self.read(validation))

    @cached_property
    def lexicon(self) -> Lexicon:
        """The model's tokens."""
        return self.job.lexicon(self.masks)

    def read(self, examples: Examples) -> Examples:
        """``examples`` as the model reads them without the tokens that are gone now."""
        return examples if self.masks.removed_tokens is None else self.lexicon.read(examples).examples

    def judge(self, step: str, pairs: Pairs) -> list[Verdict]:
        """Scores and verdicts from paired predictions."""
        scores = self.scores(pairs)
        verdicts = judge(self.job.gates, scores)
        if not self.ledger.find("judged", step):
            path = self._table(f"scores-{step}")
            pd.DataFrame([asdict(score) for score in scores]).to_parquet(path, index=False)
            body = {
                "split": pairs.split,
                "state": overall(verdicts),
                "verdicts": [verdict_row(each) for each in verdicts],
            }
            self.ledger.append("judged", step, body, (path,))
        return verdicts

    def scores(self, pairs: Pairs) -> list[Score]:
        return [score for evaluator in self.job.evaluators for score in evaluator.evaluate(pairs)]

    def record_effect(self, step: str, before: Pairs, after: Pairs, expected: Joint) -> None:
        """Put what a step did beside what it was expected to do."""
        if not self.ledger.find("observed", step):
            body: dict[str, Any] = {"expected": asdict(expected), "observed": asdict(observed_joint(before, after))}
            if self.masks.removed_tokens is not None:
                validation = self.job.splits.validation
                body["reading"] = self.lexicon.read(validation).facts(validation)
            self.ledger.append("observed", step, body)

    def untouched(self, examples: Examples) -> Pairs:
        """The original paired with itself: the state before the first edit."""
        original = self.original(examples)
        return paired(examples, original, original)

    def original(self, examples: Examples) -> Decided:
        """What the original decides on a split; its masks are off while they are computed."""
        if examples.name not in self.originals:
            path = self.folder / "predictions" / f"original-{examples.name}.parquet"
            if not self.ledger.find("predicted", f"original-{examples.name}"):
                with self.masks.untouched():
                    forward = logits_of(self.job.subject.model)
                    decided = self._predict(forward, examples, f"original on {examples.name}")
                paired(examples, decided, decided).save(path)
                body = {"split": examples.name, "rows": len(examples)}
                self.ledger.append("predicted", f"original-{examples.name}", body, (path,))
            self.originals[examples.name] = Pairs.load(path).decided
        return self.originals[examples.name]

    @cached_property
    def latency(self) -> LatencyTable | None:
        """What this machine takes, as it was found when the run began; None without a target."""
        target, path = self.job.target, self._table("latency")
        if target is None:
            return None
        if not self.ledger.find("timed", "start"):
            with self.masks.untouched():
                table = latency_of(self.job, target, self.anatomy, self.progress)
            table.save(path)
            self.ledger.append("timed", "start", table.facts() | {"aim": target.words}, (path,))
        return LatencyTable.load(path)

    @property
    def milliseconds(self) -> float | None:
        """What the target allows."""
        return None if self.job.target is None or self.latency is None else self.job.target.milliseconds(self.latency)

    def time(self, artifact: Path) -> None:
        """Measure what will be deployed against the original, where there is a target."""
        if self.job.target is None or self.latency is None or self.ledger.find("timed", "artifact"):
            return
        self.progress.say("timing what will be deployed against the original, in turn")
        read = self._read_by_artifact(self.job.splits.calibration, artifact)
        with self.masks.untouched():
            body = timed(self.job, self.job.target, self.anatomy, artifact, read)
        self.ledger.append("timed", "artifact", body | {"predicted": self.latency.predict(self.masks.removed)})

    def materialize(self) -> Path:
        """Cut the components out for good and write the artifact; it must hold what the ledger says."""
        folder = self.folder / "artifact"
        if self.ledger.find("materialized", "artifact"):
            return folder
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped in the middle
        removed, standing, ranks = self.masks.removed, self.masks.standing, self.masks.ranks
        with self.masks.untouched():
            smaller = materialize(self.job.subject.model, self.anatomy, removed, standing)
        expected = expected_parameters(self.job.subject.model, self.anatomy, removed, ranks)
        spans, pooling = self.job.splits.test.spans, self.job.subject.pooling
        manifest = save_compressed(
            smaller, folder, removed=removed, base=self.anatomy, ranks=ranks,
            provenance={"source": self.job.subject.source, "digest": self.job.subject.digest, "ledger_head": self.ledger.head,
                        **({} if spans is None else {"answers": spans.facts()}),
                        **({} if pooling is None else {"pooling": asdict(pooling)})},
        )  # fmt: skip
        if manifest["parameters"] != expected:
            raise EditError(f"the artifact has {manifest['parameters']} parameters, the ledger says {expected}")
        self._processor().save_pretrained(folder)
        saved = self.masks.saved
        body = {"parameters": manifest["parameters"], "parameters_saved": self.anatomy.parameters - expected,
                "flops": self.anatomy.flops - saved[1], "flops_saved": saved[1],
                "bytes": (folder / "model.safetensors").stat().st_size}  # fmt: skip
        files = tuple(sorted(path for path in folder.iterdir() if path.is_file()))
        self.ledger.append("materialized", "artifact", body, files)
        return folder

    def _processor(self) -> Any:
        """What goes with the artifact: a tokenizer of the tokens that are left, that cuts where the judged texts were cut."""
        fewer = self.masks.removed_tokens is not None
        own = self.lexicon.without(self.lexicon.gone) if fewer else self.job.subject.processor
        spec = self.job.splits.spec
        if self.job.subject.kind.reads == "image" or spec is None or spec.max_length is None:
            return own
        processor = copy.deepcopy(own)
        processor.model_max_length = spec.max_length
        return processor

    def deploy(self, artifact: Path, masked: Pairs) -> None:
        """Write what will run and what else was asked for, and compare what runs with the ``masked`` model on validation."""
        from compress_explain.running.delivery import deliver  # seconds to import

        deliver(self, artifact, self._read_by_artifact(self.job.splits.calibration, artifact))
        if not self.ledger.find("compared", "deployed"):
            simulated, deployed = self._side_by_side(masked, artifact)
            same = simulated.compressed_guesses == deployed.compressed_guesses
            gap = np.abs(simulated.compressed - deployed.compressed)
            body = {"split": masked.split, "agreement": float(same.mean()), "n": len(same), "logits": float(gap.max()),
                    "change": asdict(observed_joint(simulated, deployed))}  # fmt: skip
            self.ledger.append("compared", "deployed", body)

    def _side_by_side(self, masked: Pairs, artifact: Path) -> tuple[Pairs, Pairs]:
        """The ``masked`` model and what runs, on validation; a checkpoint, which differs by rounding alone, on some rows."""
        validation = self.job.splits.validation
        read = self._read_by_artifact(validation, artifact)
        if read_manifest(artifact).form != TORCH:
            return masked, self._predictions(DEPLOYED, validation, self._deployed(artifact), read)
        some = replace(read, labels=np.arange(len(read))).draw(_COMPARED, self.job.seed)  # labelled by their row
        simulated, label = masked.of_rows(some.labels), "comparing the checkpoint with the masked model"
        decided = self._predict(self._deployed(artifact), some, label, simulated.decided.choices)
        return simulated, simulated.beside(decided)

    def observe_artifact(self, artifact: Path, *, on_test: bool = True) -> tuple[str, Pairs]:
        """The step's name, and predictions of what will be deployed, loaded from disk, on test or on validation."""
        step, split = ("artifact", self.job.splits.test) if on_test else (DEPLOYED, self.job.splits.validation)
        read = self._read_by_artifact(split, artifact)
        return step, self._predictions(step, split, self._deployed(artifact), read)

    def _deployed(self, artifact: Path) -> Forward:
        """What runs, opened when it is first asked."""
        opened = cache(lambda: load_deployed(artifact))
        return lambda inputs: opened()(inputs)

    def _read_by_artifact(self, examples: Examples, artifact: Path) -> Examples:
        """``examples`` as the artifact's own tokenizer cuts them, where tokens went."""
        if self.masks.removed_tokens is None:
            return examples
        return read_by(examples, AutoTokenizer.from_pretrained(artifact))

    def _predictions(self, step: str, examples: Examples, forward: Forward, read: Examples) -> Pairs:
        """Of what ``forward`` makes of them when it reads ``examples`` as ``read``, beside the original's."""
        path = self.folder / "predictions" / f"{step}-{examples.name}.parquet"
        name = f"{step}-{examples.name}"
        if self.ledger.find("predicted", name):
            return Pairs.load(path)
        original = self.original(examples)
        label = f"evaluating on {examples.name} ({step})"
        pairs = paired(examples, original, self._predict(forward, read, label, original.choices))
        pairs.save(path)
        self.ledger.append("predicted", name, {"split": examples.name, "rows": len(examples)}, (path,))
        return pairs

    def _predict(self, forward: Forward, examples: Examples, label: str, choices: np.ndarray | None = None) -> Decided:
        with self.progress.track(label, len(examples)) as advance:
            decided = decide_all(forward, examples, self.job.batch_size, advance, choices)
        rows = np.repeat(np.arange(len(examples)), examples.decisions)
        broken = np.zeros(len(examples), dtype=bool)
        broken[rows[~np.isfinite(decided.logits).all(1)]] = True
        if broken.any():
            raise InputError(
                "model",
                self.job.subject.source,
                f"{label}: the logits of {int(broken.sum())} rows are not finite (first: row {int(broken.argmax())})",
                "check the model's weights, and its inputs on that row",
            )
        return decided

    def _refuse_idle_edits(self, plan: Plan) -> None:
        """A removal is believed only if there was something to remove (a dead part must be priced 0)."""
        priced = [edit for edit in plan.edits if edit.action == "remove" and edit.expected_loss_change != 0]
        suspects = [
            edit.component for edit in priced if edit.kind in (*self.anatomy.kinds, CHANNEL)
        ]  # others were tried
        for batch in self.read(self.priced).batches(self.job.batch_size):
            if not suspects:
                return
            suspects = self._silent(suspects, batch.inputs)
        if suspects:
            raise EditError(f"{suspects[0]} has no output to remove, yet its removal was priced")

    def _silent(self, components: list[str], inputs: dict[str, Any]) -> list[str]:
        """Those whose removal cannot change anything on these inputs."""
        channels, stream = of_channels(components), self.anatomy.stream
        others = [each for each in components if each not in channels]
        found = self.masks.silent(others, inputs) if others else []
        if stream is None or not channels:
            return found
        return found + silent_channels(self.job.subject.model, stream, channels, inputs)

    def _expected_of_tokens(self, plan: Plan) -> Joint | None:
        """What the tokens of a plan are expected to do: what was rehearsed, or their part of it; None if it has none."""
        change = sum(edit.expected_loss_change for edit in plan.edits if edit.kind == TOKEN)
        rehearsed = [record for record in self.ledger.of_kind("planned") if "vocabulary" in record.body]
        if TOKEN not in plan.counts() or not rehearsed:
            return None
        whole = Joint(**rehearsed[-1].body["vocabulary"]["expected"])
        if rehearsed[-1].step == plan.step:
            return whole
        return share_of(whole, change / whole.loss_change if whole.loss_change else 0.0)

    def _switch(self, plan: Plan) -> None:
        self._before[plan.step] = self.masks.refits, self.masks.factors
        self.masks.remove(plan.of("remove"))
        self._factorize(plan)
        self.masks.quantize(plan.quantized)
        self.masks.restore(plan.of("restore"))
        self.work |= {edit.component: edit.work_saved for edit in plan.edits if edit.action == "quantize"}

    def _switch_back(self, plan: Plan) -> None:
        self.masks.restore(plan.of("remove") + plan.of("quantize"))
        linears = {edit.component: edit.into for edit in plan.edits if edit.action == "restore" and edit.into}
        self.masks.remove(name for name in plan.of("restore") if name not in linears)
        self.masks.quantize({name: into for name, into in linears.items() if name not in plan.made_whole})

    def _factorize(self, plan: Plan) -> None:
        """Put two linears in the place of each that the plan factors: as the file holds them, at once and on resuming."""
        if not plan.factored:
            return
        path, table = self.folder / "tensors" / f"factors-{plan.step}.safetensors", self._table(f"factors-{plan.step}")
        modules = {self.anatomy.linears[name].module: name for name in plan.factored}
        if not self.ledger.find("factored", plan.step):
            made = {name: self.masks.factors_of(name, into) for name, into in plan.factored.items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            save_factors({module: made[name] for module, name in modules.items()}, path)
            rows = self.read(self.job.splits.calibration.draw(self.job.audit.rows, self.job.seed))
            with self.progress.track(
                f"trying each factored linear alone ({plan.step})", len(rows) * len(made)
            ) as advance:
                facts = factored_facts(self.masks, rows, plan, batch_size=self.job.batch_size, advance=advance)
            facts.to_parquet(table, index=False)
            body = {"linears": len(made), "ranks": {name: each.rank for name, each in made.items()}}
            self.ledger.append("factored", plan.step, body, (table, path))
        self.masks.factorize({modules[module]: each for module, each in load_factors(path).items()})

    def _table(self, name: str) -> Path:
        return self.folder / "tables" / f"{name}.parquet"


@contextmanager
def open_session(job: Job, folder: Path, progress: Progress, *, resume: bool) -> Iterator[Session]:
    """Lock the run's folder, read the model's anatomy and put the masks in place."""
    with open_folder(folder, job.identity(), resume=resume) as ledger:
        anatomy = read_anatomy(job.subject.model, tokens_of(job.subject, job.splits.calibration))
        anatomy = with_stream_of(job, anatomy, ledger)
        with Masks(job.subject.model, anatomy) as masks:
            session = Session(job=job, ledger=ledger, progress=progress, anatomy=anatomy, masks=masks)
            check_fit(job.strategies, anatomy)
            session.start()
            record_stream(anatomy, ledger)
            if job.runtime == "compiled" and not ledger.find("deployed", "artifact"):
                refuse_without_compiler()  # before anything is priced
            if "dense" in job.artifacts and any(Layer.kind in strategy.kinds for strategy in job.strategies):
                refuse_norms_after(anatomy)  # likewise
            if any(TOKEN in strategy.kinds for strategy in job.strategies):
                _ = session.lexicon.pieces  # refused before anything is priced
            _ = session.latency  # likewise
            yield session


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values; what is not a finite number becomes None."""
    row = {
        "metric": verdict.gate.metric, "slice": verdict.slice, "gate": verdict.gate.rule_text, "rule": verdict.gate.rule,
        "limit": verdict.gate.limit, "state": verdict.state, "estimate": verdict.estimate, "low": verdict.low,
        "high": verdict.high, "slack": verdict.slack, "n": verdict.n, "n_needed": verdict.n_needed,
        "message": verdict.message,
    }  # fmt: skip
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}
