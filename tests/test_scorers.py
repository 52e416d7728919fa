"""Scorers against direct computations of what their papers and official code say."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified.eval import answers, metrics
from unified.eval.drawn import Dpg, Geneval
from unified.eval.scorers import Mme, pope_f1, pope_precision, pope_recall, scorer
from unified.eval.scoring import Context

# CIDEr


def slow_cider_d(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """CIDEr-D by its formulas over the whole vocabulary, one dense vector at a time."""

    def grams(text: str, n: int) -> list[str]:
        words = re.findall(r"\w+", text.lower())
        return [" ".join(words[k : k + n]) for k in range(len(words) - n + 1)]

    scores = {}
    for key, said in candidates.items():
        total = 0.0
        for reference in references[key]:
            for n in (1, 2, 3, 4):
                vocabulary = sorted(
                    {g for texts in references.values() for t in texts for g in grams(t, n)}
                    | {g for text in candidates.values() for g in grams(text, n)}
                )
                weights = []
                for gram in vocabulary:
                    pictures = sum(
                        any(gram in grams(t, n) for t in texts) for texts in references.values()
                    )
                    weights.append(math.log(len(references) / max(1, pictures)))
                one, two = (
                    np.array([grams(text, n).count(gram) for gram in vocabulary], float)
                    * np.array(weights)
                    for text in (said, reference)
                )
                size = np.linalg.norm(one) * np.linalg.norm(two)
                cosine = (np.minimum(one, two) * two).sum() / size if size else 0.0
                gap = len(grams(said, 2)) - len(grams(reference, 2))
                total += 10 * cosine * math.exp(-(gap**2) / 72) / 4 / len(references[key])
        scores[key] = total
    return scores


def random_captions(rng: random.Random) -> tuple[dict[str, str], dict[str, list[str]]]:
    words = ["cat", "dog", "a", "on", "mat", "red", "runs", "the", "tree"]

    def caption() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 9)))

    keys = [str(k) for k in range(rng.randint(2, 6))]
    return ({k: caption() for k in keys},
            {k: [caption() for _ in range(rng.randint(1, 5))] for k in keys})  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_cider_is_the_paper_s(seed: int) -> None:
    candidates, references = random_captions(random.Random(seed))
    found, wanted = metrics.cider(candidates, references), slow_cider_d(candidates, references)
    assert found == pytest.approx(wanted, abs=1e-9)


def test_cider_of_a_reference_is_ten_and_of_nothing_zero() -> None:
    references = {"1": ["a red cat sits on the mat"], "2": ["two dogs run in green grass"]}
    same = {key: texts[0] for key, texts in references.items()}
    assert metrics.cider(same, references) == pytest.approx({"1": 10.0, "2": 10.0})
    assert metrics.cider(dict.fromkeys(same, ""), references) == {"1": 0.0, "2": 0.0}
    plain = metrics.cider({"1": "red red red cat", "2": ""}, references, robust=False)
    assert plain["1"] > metrics.cider({"1": "red red red cat", "2": ""}, references)["1"]


# words


def test_word_errors_are_jiwer_s_or_it_is_named() -> None:
    try:
        import jiwer  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="need the package jiwer"):
            metrics.word_errors("a cat", "the cat")
        return
    assert metrics.word_errors("the cat sat", "The cat sat down.") == (1, 4)
    assert metrics.word_errors("", "two words") == (2, 2)


# features


def square_root_distance(one: np.ndarray, two: np.ndarray) -> float:
    """The Fréchet distance as it is written, with a matrix root in float64."""
    from scipy import linalg

    c1, c2 = (np.cov(x, rowvar=False) for x in (one, two))
    root = linalg.sqrtm(c1 @ c2).real
    return float(((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root))


@pytest.mark.parametrize("seed", range(4))
def test_frechet_distance_is_the_direct_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(6, 6))
    one, two = rng.normal(size=(80, 6)) @ mix, rng.normal(size=(50, 6)) + 0.3
    assert metrics.frechet_distance(one, two) == pytest.approx(
        square_root_distance(one, two), abs=1e-6
    )


def test_frechet_distance_of_itself_is_zero_and_of_a_shift_its_square() -> None:
    x = np.random.default_rng(0).normal(size=(5, 40))  # fewer samples than features
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(x, x + 2) == pytest.approx(4 * 40, abs=1e-6)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_features_that_cannot_be_compared_are_refused(shapes: Any) -> None:
    one, two = map(np.zeros, shapes)
    with pytest.raises(ValueError, match="needs at least 2|cannot be compared"):
        metrics.frechet_distance(one, two)


def slow_precision(real: np.ndarray, made: np.ndarray, k: int) -> float:
    inside = 0
    for x in made:
        for centre in real:
            radius = sorted(np.linalg.norm(other - centre) for other in real)[k]
            if np.linalg.norm(x - centre) <= radius:
                inside += 1
                break
    return inside / len(made)


def test_precision_and_recall_are_the_paper_s() -> None:
    rng = np.random.default_rng(1)
    real, made = rng.normal(size=(30, 2)), rng.normal(size=(25, 2)) * 1.5 + 1
    precision, recall = metrics.precision_recall(real, made, 3)
    assert precision == slow_precision(real, made, 3)
    assert recall == slow_precision(made, real, 3)
    assert metrics.precision_recall(real, real) == (1.0, 1.0)
    assert metrics.precision_recall(real, real + 100) == (0.0, 0.0)


@pytest.mark.parametrize(("n", "width"), [(40, 4), (120, 64)])
def test_intervals_of_distances_hold_their_values(n: int, width: int) -> None:
    """Sets drawn with replacement are further apart: as they are, none would hold the value."""
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(n, width)), rng.normal(size=(n, width)) + 0.2
    value = metrics.frechet_distance(real, made)
    draws = [metrics.frechet_distance(real, made[rng.integers(n, size=n)]) for _ in range(40)]
    stderr, (low, high) = metrics.around(value, draws)
    assert np.mean(draws) > value
    assert low < value < high and high - low == pytest.approx(3.9 * stderr, rel=0.4)
    assert metrics.around(0.1, [1.0, 2.0])[1][0] == 0


def test_members_of_a_manifold_are_those_that_precision_and_recall_count() -> None:
    rng = np.random.default_rng(2)
    real, made = rng.normal(size=(20, 3)), rng.normal(size=(30, 3)) * 2
    inside = metrics.manifold_members(real, made)
    assert [len(found) for found in inside] == [30, 20]
    assert metrics.precision_recall(real, made) == tuple(found.mean() for found in inside)
    one = metrics.manifold_members(real, made[:9])[0]
    assert (one == inside[0][:9]).all()  # of each made sample by itself


# VQA


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Red Cat.", "red cat"),
        ("two", "2"),
        ("1,000", "1000"),
        ("3.5 metres", "3.5 metres"),
        ("black/white", "black white"),
        ("yes, it is", "yes it is"),
        ("dont", "don't"),
        ("an apple\n", "apple"),
        ("None", "0"),
        ("t-shirt", "t shirt"),  # of VQA v2's marks; a colon and an apostrophe are none
        ("7:30", "7:30"),
        ("let's go", "let's go"),
        ("the dog's", "dog's"),
        ("red,\tblue", "red blue"),
        ("1,000 t-shirts", "1000 tshirts"),
    ],
)
def test_vqa_normalises_as_officially(text: str, wanted: str) -> None:
    assert answers.vqa_normalised(text) == wanted


@pytest.mark.parametrize(
    ("said", "given", "vqa", "textvqa"),
    [
        ("Nous les gosses", ["Nous Les Gosses"] * 10, 0.0, 1.0),  # VQA leaves people's case
        ("two", ["two"] * 10, 0.0, 1.0),  # and, where all agree, their numbers and articles
        ("the coke", ["The Coke"] * 3 + ["pepsi"] * 7, 0.0, (3 * 2 / 3 + 7) / 10),
        ("wendy's", ["wendy 's"] * 10, 0.0, 1.0),  # a possessive is a word
        ("1,000", ["1000"] * 10, 1.0, 1.0),
        ("8", ["8"] * 2 + ["eight"] * 8, (2 / 3 * 8 + 1 / 3 * 2) / 10, 1.0),
    ],
)
def test_textvqa_normalises_people_s_answers_too(
    said: str, given: list[str], vqa: float, textvqa: float
) -> None:
    """M4C's evaluator, by which TextVQA is scored, and VQA's differ where people write freely."""
    assert answers.vqa_accuracy(said, given) == pytest.approx(vqa)
    assert answers.textvqa_accuracy(said, given) == pytest.approx(textvqa)


@pytest.mark.parametrize("alike", range(11))
def test_vqa_accuracy_counts_the_other_nine(alike: int) -> None:
    given = ["red"] * alike + [f"other{k}" for k in range(10 - alike)]
    subsets = itertools.combinations(range(10), 9)
    wanted = np.mean([min(1, sum(given[k] == "red" for k in s) / 3) for s in subsets])
    assert answers.vqa_accuracy("Red.", given) == pytest.approx(wanted)


# yes and no


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Yes, there is.", True), ("No", False), ("There is no dog.", False), ("There is not", False),
     ("A dog. No cat", True), ("", True), ("None", True), ("well, no", False)],
)  # fmt: skip
def test_pope_reads_the_first_sentence(text: str, yes: bool) -> None:
    assert answers.pope_yes(text) is yes


@pytest.mark.parametrize(
    ("text", "yes"), [("Yes", True), (" no.", False), ("It is", None), ("", None), ("NO!", False)]
)
def test_mme_reads_four_letters(text: str, yes: bool | None) -> None:
    assert answers.mme_yes(text) is yes


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_pope_metrics_are_their_definitions(pairs: list[tuple[bool, bool]]) -> None:
    found = np.array(pairs, float)
    tp = sum(s and t for s, t in pairs)
    fp = sum(s and not t for s, t in pairs)
    fn = sum(t and not s for s, t in pairs)
    assert pope_precision(found) == (tp / (tp + fp) if tp + fp else 0)
    assert pope_recall(found) == (tp / (tp + fn) if tp + fn else 0)
    assert pope_f1(found) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)


def record(identity: str, group: str, skill: str, **marks: Any) -> dict[str, Any]:
    return {"id": identity, "group": group, "skill": skill, "split": "test", "chance": None,
            "reply": "", "files": [], "marks": marks, "unscored": None}  # fmt: skip


NOWHERE = Context(folder=None, samples={}, judge=None)  # type: ignore[arg-type]


def values(name: str, records: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(v.skill, v.metric): v.value for v in scorer(name).rows(records, NOWHERE)}


def test_mme_adds_accuracy_and_pairs() -> None:
    right = {"a": (1, 1), "b": (1, 0), "c": (0, 0), "d": (1, 1)}
    records = [
        record(f"{g}/{k}", f"count/{g}", "count", score=float(s))
        for g, pair in right.items() for k, s in enumerate(pair)
    ]  # fmt: skip
    records += [record(f"x/{k}", "OCR/x", "OCR", score=1.0) for k in (0, 1)]
    records += [record(f"y/{k}", "code_reasoning/y", "code_reasoning", score=0.0) for k in (0, 1)]
    found = values("mme", records)
    assert found["count", "score"] == pytest.approx(100 * 5 / 8 + 100 * 2 / 4)
    assert found["perception", "score"] == pytest.approx(found["count", "score"] + 200)
    assert found["cognition", "score"] == 0
    assert Mme.score(np.array([[0, 1, 1], [1, 0.5, 0]])) == 200 + 50


def test_circular_needs_every_turn() -> None:
    records = [record(f"1+{k}", "1", "c", score=1.0) for k in range(4)]
    records += [record(f"2+{k}", "2", "c", score=float(k != 3)) for k in range(4)]
    found = values("circular", records)
    assert found == {("overall", "circular accuracy"): 0.5, ("overall", "accuracy, first turn"): 1}


def test_geneval_is_the_mean_of_the_tags_means() -> None:
    records = [
        record("0", "0", "counting", pictures=[1, 1, 1, 1], score=1.0),
        record("1", "1", "counting", pictures=[1, 0, 0, 0], score=0.25),
        record("2", "2", "position", pictures=[0, 0, 0, 1], score=0.25),
    ]
    found = values("geneval", records)
    assert found["counting", "score"] == 5 / 8
    assert found["overall", "score"] == pytest.approx((5 / 8 + 1 / 4) / 2)
    assert Geneval.overall(np.array([[0, 2, 4], [0, 4, 4], [1, 0, 4]])) == pytest.approx(0.375)


def test_dpg_zeroes_what_depends_on_a_no() -> None:
    asked = {
        "1": {"question": "a", "parents": [], "category": "entity"},
        "2": {"question": "b", "parents": ["1"], "category": "entity"},
        "3": {"question": "c", "parents": ["2"], "category": "relation"},
        "4": {"question": "d", "parents": [], "category": "global"},
    }
    yes = {"1": False, "2": True, "3": True, "4": True}
    assert Dpg.depending(yes, asked) == 0.25
    assert Dpg.depending(dict.fromkeys(asked, True), asked) == 1.0


def test_an_unknown_scorer_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown scorer 'f2'; one of exact, .*pope"):
        scorer("f2")


# multiple choice


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B", 1), ("(B)", 1), ("B.", 1), ("B: a dog", 1), ("The answer is B", 1), ("a dog", 1),
        ("It is a dog.", 1), ("A dog", 1), ("hot dog", 2), ("I think it is C.", 2), ("A", 0),
        ("a cat or a dog", None), ("nothing", None), ("", None), ("A and B", None),
    ],
)  # fmt: skip
def test_a_free_answer_names_an_option(text: str, wanted: int | None) -> None:
    options = ["a cat", "dog", "hot dog", "bird"]
    assert answers.chosen_option(text, options) == wanted


@given(st.text(max_size=40), st.lists(st.text(max_size=10), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_text_names_one_option_or_none(text: str, options: list[str]) -> None:
    found = answers.chosen_option(text, options)
    assert found is None or 0 <= found < len(options)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B", 1), ("(C) is it, not (B)", 1), ("B or C", 2), ("It is B, I think.", None),
        ("It is B I think.", 1), ("A dog", 0), ("b", None), ("cat", None),
        ("what I see in there is a hot dog", 1),  # the last to begin
        ("one of dog or bird is what it is", 3),
        ("", None),
    ],
)  # fmt: skip
def test_mmmu_reads_a_letter_or_the_last_option(text: str, wanted: int | None) -> None:
    """As its official code does, though others would read some of these otherwise."""
    options = ["a cat", "dog", "hot dog", "bird"]
    assert answers.mmmu_choice(text, options) == wanted


@pytest.mark.parametrize(
    ("said", "given", "right"),
    [
        ("The answer is 24.7", ["24.7"], True),
        ("It is big. The answer: 24.70", ["24.7"], True),
        ("The cost is 3. Then we are done", ["3"], True),  # one line is one conclusion
        ("x is y\nso we have 7", ["7"], True),
        ("also this", ["this"], True),
        ("is it so", ["it"], True),
        ("1e3 metres", ["1000"], True),
        ("from 1,2 to 3", ["12"], False),
        ("so the result is 1,200.", ["1200"], True),
        ("It is therefore a mitral valve.", ["mitral valve"], True),
        ("about 25", ["24.7"], False),
        ("aortic", ["mitral valve"], False),
    ],
)
def test_mmmu_open_answers(said: str, given: list[str], right: bool) -> None:
    assert answers.mmmu_open_right(said, given) is right


def test_mmvet_counts_parts() -> None:
    assert answers.mmvet_share("The cat is red.", "cat<AND>red<OR>crimson") == 1
    assert answers.mmvet_share("a cat", "cat<AND>red<OR>crimson") == 0.5
    assert answers.mmvet_share("a catalogue", "cat") == 0


@given(st.text(max_size=60))
@settings(deadline=None)
def test_readers_of_answers_never_fail(text: str) -> None:
    answers.vqa_normalised(text)
    answers.mmmu_open_answers(text)
    answers.mmvet_share(text, "a<AND>b<OR>c")
    assert answers.yes_or_no(text) in (True, False, None)


# how sure


def test_bootstrap_agrees_with_the_formula_of_a_mean() -> None:
    right = np.array([1.0] * 60 + [0.0] * 40)
    stderr, (low, high) = metrics.bootstrap(right, lambda x: float(x.mean()), resamples=4000)
    assert stderr == pytest.approx(math.sqrt(0.24 / 100), rel=0.05)
    assert low == pytest.approx(0.6 - 1.96 * stderr, abs=0.02)
    assert high == pytest.approx(0.6 + 1.96 * stderr, abs=0.02)
    again = metrics.bootstrap(right, lambda x: float(x.mean()), resamples=4000)
    assert again == (stderr, (low, high))


def test_bootstrap_keeps_groups_apart() -> None:
    groups = ["a"] * 5 + ["b"] * 3
    seen = set()

    def count(x: np.ndarray) -> float:
        seen.add(tuple(sorted(Counter(x.tolist()).items())))
        return 0.0

    metrics.bootstrap(np.array([0.0] * 5 + [1.0] * 3), count, groups=groups, resamples=50)
    assert seen == {((0.0, 5), (1.0, 3))}


@given(st.integers(0, 20), st.integers(0, 20))
@settings(deadline=None)
def test_mcnemar_is_the_binomial_test(one: int, two: int) -> None:
    from scipy.stats import binomtest

    p = metrics.mcnemar(one, two)
    wanted = binomtest(one, one + two).pvalue if one + two else 1.0
    assert p == pytest.approx(wanted)
