"""Changes keep what is right and come out the same for both models; attacks stay in their ball and hurt; breakage is found."""

from __future__ import annotations

import copy
import string
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import normalizers

from compress_explain.comparison.contest import Contest, Side
from compress_explain.comparison.decided import decide_all
from compress_explain.comparison.gates import Gate
from compress_explain.comparison.predictions import logits_of, pair
from compress_explain.data.loading import load_examples
from compress_explain.errors import InputError
from compress_explain.evaluating import Evaluation, evaluate
from compress_explain.evaluating.judging import judge_again
from compress_explain.evaluating.opening import open_model
from compress_explain.evaluators import Quality, Robustness
from compress_explain.model.loading import load_subject
from compress_explain.plugins.evaluator import metrics_for
from compress_explain.progress import Progress
from compress_explain.report.robustness import robustness_section
from compress_explain.robustness.attacks import fgsm, pgd
from compress_explain.robustness.images import IMAGE_CHANGES
from compress_explain.robustness.spaces import PixelSpace, TokenSpace, deviation, special_tokens
from compress_explain.robustness.texts import TEXT_CHANGES
from tests.small_job import sentences, tiny_tokenizer, trained_model
from tests.tiny import tiny_examples, tiny_model

TEXTS = [*sentences(40, seed=9)["text"], "Well, it's 3.5 stars; “naïve”, but GOOD!", "a", "", "\tword", "ß ı ŉ"]
ROWS = list(range(len(TEXTS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model that reads lower case alone, and one that is the same but for what it does not know."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("robustness")
    tokenizer, model = tiny_tokenizer(), None
    model = trained_model(tokenizer)
    for name in ("original", "broken"):
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    sentences(160, seed=4).to_csv(folder / "test.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    subject = load_subject(str(folder / "original"), "text-classification")
    return load_examples(str(folder / "test.csv"), (), subject)


@pytest.fixture(scope="module")
def model(folder):
    return load_subject(str(folder / "original"), "text-classification").model


def contest(model, other, examples, tokenizer, forward=None, **options) -> Contest:
    sides = [
        Side(name=name, forward=logits_of(each), examples=examples, processor=tokenizer, module=each)  # type: ignore[arg-type]
        for name, each in (("original", model), ("compressed", other))
    ]
    sides[1] = replace(sides[1], **({"forward": forward} if forward else {}), **options)
    answers = decide_all(sides[0].forward, examples).logits
    return Contest(original=sides[0], compressed=sides[1], pairs=pair(examples, answers, answers))


def measured(versus: Contest, **options) -> pd.DataFrame:
    return Robustness(**{"attacks": (), **options}).measure(versus, lambda rows: None)


def scores_of(table: pd.DataFrame) -> dict:
    return {each.metric: each for each in Robustness(attacks=()).scores(table)}


@pytest.mark.parametrize("name", TEXT_CHANGES)
def test_a_change_of_a_text_hangs_on_seed_row_and_name_alone(name):
    change = TEXT_CHANGES[name]
    made = change.of(TEXTS, ROWS, change.usual, 0)
    assert made == change.of(TEXTS, ROWS, change.usual, 0)
    assert made[::-1] == change.of(TEXTS[::-1], ROWS[::-1], change.usual, 0)
    assert change.of(TEXTS, ROWS, 0.0, 0) == TEXTS
    assert made != TEXTS
    assert name == "case" or made != change.of(TEXTS, ROWS, change.usual, 1)
    assert all(bool(after.strip()) == bool(before.strip()) for before, after in zip(TEXTS, made, strict=True))


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_typos_touch_no_more_letters_than_they_say(share):
    for before, after in zip(TEXTS, TEXT_CHANGES["typos"].of(TEXTS, ROWS, share, 3), strict=True):
        letters = sum(letter in string.ascii_letters for letter in before)
        slips = int(np.ceil(share * letters - 1e-9))
        assert abs(len(after) - len(before)) <= slips
        assert _distance(before, after) <= 2 * slips  # exchanging two takes two changes


def _distance(first: str, second: str) -> int:
    """Letters changed, put in and left out (Levenshtein)."""
    line = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        before, line[0] = line[0], row
        for column, other in enumerate(second, 1):
            before, line[column] = line[column], min(line[column] + 1, line[column - 1] + 1, before + (letter != other))
    return line[-1]


def test_each_change_keeps_what_it_says_it_keeps():
    def made(name: str, text: str) -> str:
        return TEXT_CHANGES[name].of([text], [1], 1.0, 0)[0]

    for text in TEXTS[:41]:
        assert made("case", text) == text.upper()
        assert made("mixed_case", text).lower() == text.lower()
        assert "".join(made("spaces", text).split()) == "".join(text.split())
        letters = [each for each in made("punctuation", text) if each.isalnum()]
        assert letters == [each for each in text if each.isalnum()]
        assert "3.5" in made("punctuation", text) or "3.5" not in text
        assert len(made("lookalikes", text)) == len(text)
        assert set(made("word_drop", text).split()) <= set(text.split())


@pytest.mark.parametrize("name", IMAGE_CHANGES)
def test_a_change_of_an_image(name):
    change, images = IMAGE_CHANGES[name], tiny_examples("vit").inputs["pixel_values"]
    made = change.of(images, list(range(len(images))), change.usual, 1.0, 0)
    again = change.of(images, list(range(len(images))), change.usual, 1.0, 0)
    for before, after, same in zip(images, made, again, strict=True):
        assert after.shape == before.shape and after.dtype == before.dtype
        np.testing.assert_array_equal(after, same)
        assert not np.array_equal(after, before)
    if name == "noise":
        apart = np.stack(made) - np.stack(images)
        assert apart.std() == pytest.approx(change.usual, rel=0.05)
    if name == "occlusion":
        assert all((after != before).mean() <= 0.25 for before, after in zip(images, made, strict=True))


def test_both_sides_are_given_the_same_texts_and_the_same_model_differs_nowhere(model, rows):
    table = measured(contest(model, model, rows, tiny_tokenizer()), rows=60)
    assert (table["original_guess"] == table["compressed_guess"]).all()
    np.testing.assert_array_equal(table["original_probability"], table["compressed_probability"])
    pd.testing.assert_frame_equal(table, measured(contest(model, model, rows, tiny_tokenizer()), rows=60))
    scores = scores_of(table)
    assert set(scores) == {
        f"robustness.{name}" for name in ("typos", "case", "punctuation", "spaces", "lookalikes", "mean")
    }
    assert all(score.difference == 0 and score.low < 0 < score.high and score.n == 60 for score in scores.values())


def test_a_model_that_breaks_on_upper_case_is_found(model, rows):
    """Its tokenizer is the original's but for upper case, of which the original's knows every word too."""
    knowing = copy.deepcopy(tiny_tokenizer())
    knowing.backend_tokenizer.normalizer = normalizers.Lowercase()
    versus = contest(model, model, rows, tiny_tokenizer())
    versus = replace(versus, original=replace(versus.original, processor=knowing))
    table = measured(versus)
    scores = scores_of(table)
    assert scores["robustness.case"].high < 0 and scores["robustness.case"].original > 0.8
    assert scores["robustness.spaces"].low < 0 < scores["robustness.spaces"].high
    section = robustness_section({(s.metric, "all"): vars(s) for s in scores.values()}, table, rows.texts)
    assert section is not None and "case costs the compressed model most" in section.sentence
    assert len(section.examples) == 3 and all(each.before != each.after for each in section.examples)
    worst = next(row for row in section.rows if row.name == "case")
    assert worst.high < 0 and worst.clean[0] == worst.clean[1]


def spaces_of(model, examples) -> list:
    if "pixel_values" in examples.inputs:
        return [PixelSpace.over(model, examples)]
    return [TokenSpace.over(model, examples, special_tokens(tiny_tokenizer()))]


@pytest.fixture(params=["text", "image"])
def attacked(request, model, rows):
    """A space and a batch, with its labels."""
    examples = rows.only(np.arange(32)) if request.param == "text" else tiny_examples("vit")
    victim = model if request.param == "text" else tiny_model("vit")
    batch = examples.batch(np.arange(len(examples)))
    return spaces_of(victim, examples)[0], batch, torch.from_numpy(examples.labels.copy())


def losses(space, batch, shift, labels) -> torch.Tensor:
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(space.logits(batch, shift), labels, reduction="none")


def test_attacks_stay_in_their_ball_and_raise_the_loss(attacked):
    space, batch, labels = attacked
    before, means = losses(space, batch, space.still(batch), labels), []
    for radius in (0.05, 0.2):
        shifts = {"fgsm": fgsm(space, batch, labels, [radius])[0], "pgd": pgd(space, batch, labels, radius, 5)}
        for shift in shifts.values():
            sizes = shift.abs() if isinstance(space, PixelSpace) else shift.norm(dim=-1)
            assert sizes.max() <= radius * space.unit * (1 + 1e-5) and sizes.max() > 0
        found = {name: losses(space, batch, shift, labels) for name, shift in shifts.items()}
        assert (found["pgd"] >= before - 1e-6).all() and found["fgsm"].mean() > before.mean()
        assert found["pgd"].mean() >= found["fgsm"].mean() - 1e-6
        means.append(found["pgd"].mean())
    assert means[0] < means[1]


def test_a_radius_of_nothing_changes_no_bit(attacked):
    space, batch, labels = attacked
    shifts = (fgsm(space, batch, labels, [0.0])[0], pgd(space, batch, labels, 0.0, 3))
    with torch.no_grad():
        plain = space.model(**batch.inputs).logits
        assert all(torch.equal(space.logits(batch, shift), plain) for shift in shifts)


def test_special_tokens_and_padding_stay(model, rows):
    (space,), batch = spaces_of(model, rows), rows.batch(np.arange(32))
    shift = fgsm(space, batch, torch.from_numpy(rows.labels[:32].copy()), [0.1])[0]
    ids = batch.inputs["input_ids"]
    assert (shift[(ids == 0) | (ids == 2) | (ids == 3)] == 0).all()
    assert (shift[ids > 3].norm(dim=-1) > 0).any()


def test_pixels_stay_in_the_range_of_the_split():
    examples, victim = tiny_examples("vit"), tiny_model("vit")
    space, batch = PixelSpace.over(victim, examples), examples.batch(np.arange(24))
    shown = space.moved(batch, pgd(space, batch, torch.from_numpy(examples.labels.copy()), 3.0, 2))
    pixels = np.stack(examples.inputs["pixel_values"])
    assert space.unit == pytest.approx(pixels.std(), rel=1e-6) == deviation(examples)
    assert shown.min() >= pixels.min() - 1e-5 and shown.max() <= pixels.max() + 1e-5


def test_attacks_are_told_with_what_they_rest_on(model, rows):
    few = rows.only(np.arange(40))
    versus = contest(model, model, few, tiny_tokenizer(), form="onnx int8_dynamic")
    options = {"perturbations": ("case",), "attacks": ("fgsm", "pgd"), "epsilons": [0.02, 0.3], "steps": 3}
    evaluator = Robustness(**options, attacked_rows=24)
    scores = {each.metric: each for each in evaluator.scores(evaluator.measure(versus, lambda rows: None))}
    assert set(scores) == set(evaluator.metrics_for("text-classification"))
    assert scores["robustness.pgd.0.3"].compressed < scores["robustness.fgsm.0.02"].compressed
    assert "torch" in scores["robustness.fgsm.0.3"].doubt and not scores["robustness.case"].doubt
    assert scores["robustness.fgsm.0.3"].n == 24 and scores["robustness.case"].n == 40
    bare = evaluator.measure(replace(versus, compressed=replace(versus.compressed, module=None)), lambda rows: None)
    assert {each.metric for each in evaluator.scores(bare)} == {"robustness.case", "robustness.mean"}
    section = robustness_section({}, bare, None)
    assert section is not None and [name for name, _ in section.missing] == ["FGSM", "PGD"] and not section.examples


def test_images_are_asked_too():
    examples, victim = tiny_examples("vit"), tiny_model("vit")
    examples = replace(examples, task="image-classification")
    evaluator = Robustness(epsilons=(0.1,), steps=2)
    table = evaluator.measure(contest(victim, tiny_model("vit", seed=1), examples, None), lambda rows: None)
    assert {each.metric for each in evaluator.scores(table)} == set(evaluator.metrics_for("image-classification"))


def test_classes_in_another_order_are_brought_in_line(model, rows):
    turned = copy.deepcopy(model)
    with torch.no_grad():
        turned.classifier.weight.copy_(model.classifier.weight.flip(0))
        turned.classifier.bias.copy_(model.classifier.bias.flip(0))
    straight = logits_of(turned)
    few = rows.only(np.arange(24))
    versus = contest(
        model, turned, few, tiny_tokenizer(), forward=lambda inputs: straight(inputs)[..., [1, 0]], order=(1, 0)
    )
    table = Robustness(perturbations=["case"], epsilons=[0.02]).measure(versus, lambda rows: None)
    np.testing.assert_allclose(table["original_probability"], table["compressed_probability"], atol=1e-5)


def test_other_tasks_are_told_nothing_and_gates_on_them_are_refused_early():
    evaluator = Robustness()
    assert evaluator.metrics_for("text-generation") == () and "robustness.typos" in evaluator.metrics
    assert "robustness.typos" not in metrics_for([Quality(), evaluator], "token-classification")
    assert "robustness.noise" not in metrics_for([Quality(), evaluator], "text-classification")
    assert "robustness.typos" in metrics_for([evaluator], "text-classification")


@pytest.mark.parametrize(
    "options", [{"perturbations": ["typo"]}, {"attacks": ["pdg"]}, {"epsilons": [0]}, {"steps": 0}, {"strength": -1.0}, {"confidence": 1.0}]
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Robustness(**options)


def test_an_evaluation_is_gated_on_typos_and_judged_again(folder, tmp_path):
    original, candidate = (open_model(str(folder / name)) for name in ("original", "broken"))
    test = load_examples(str(folder / "test.csv"), (), original.subject)
    evaluation = Evaluation(
        original=original, candidate=candidate, test=test, evaluators=[Quality(), Robustness(epsilons=(0.05,), attacked_rows=16)],
        gates=[Gate(metric="robustness.typos", max_drop=0.1), Gate(metric="robustness.fgsm.0.05", min=0.0)],
    )  # fmt: skip
    done = evaluate(evaluation, tmp_path / "out", Progress(quiet=True))
    assert done.state == "pass" and [row["metric"] for row in done.summary["verdicts"]] == [
        "robustness.typos",
        "robustness.fgsm.0.05",
    ]
    assert judge_again(tmp_path / "out").same
    page = (tmp_path / "out" / "report.html").read_text()
    assert (
        '<section id="robustness">' in page and "certifies nothing" in page and "What changed inputs look like" in page
    )
    with pytest.raises(InputError, match="no evaluator gives this"):
        replace(evaluation, gates=[Gate(metric="robustness.noise", max_drop=0.1)])
