"""What an answer says: yes or no, an option, a normalised phrase; each by its benchmark's own rule.

Pure functions over text. Knows nothing of models, files or how scores are averaged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # of the evaluation code of VQA v2

# Words that lost their apostrophe; the right forms, from which the wrong ones follow.
_WHOLE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd
he's how'd how'll how's I'm I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't
not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll
someone's something'd something'll that's there'd there're there's they'd they'll they're they've
'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"""
_DOUBLE = """couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've
somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've
y'all'll y'all'd've you'd've 'ow's'at"""


def _without_each(word: str) -> list[str]:
    """A word with any one of its apostrophes left out."""
    return [word[:k] + word[k + 1 :] for k, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = (
    {word.replace("'", ""): word for word in _WHOLE.split()}
    | {wrong: word for word in _DOUBLE.split() for wrong in _without_each(word)}
    | {"somebody'd": "somebodyd"}  # the official table has this one the other way round
)


# --- VQA ---------------------------------------------------------------------------------------


def strip_punctuation(text: str) -> str:
    """The evaluation code of VQA on punctuation: a mark at a space, or in a text with a number
    like 1,000, goes; any other becomes a space; a full stop goes unless a digit follows."""
    number = re.search(r"\d,\d", text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space or number else " ")
    return re.sub(r"\.(?!\d)", "", out)


def plain_words(text: str) -> str:
    """Lower case, digits for number words, no articles, apostrophes back in contractions."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


ARTICLES = ("a", "an", "the")


def vqa_normalised(text: str) -> str:
    """An answer as VQA compares it, https://visualqa.org/evaluation.html."""
    return plain_words(strip_punctuation(_one_line(text)))


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """How far people agree, 0 to 1: the mean over the annotators of min(1, others alike / 3).

    Args:
        given: the annotators' answers, usually ten. Where they differ, punctuation is taken from
            them as well, as in the official code.
    """
    answers = list(given)
    if len(set(answers)) > 1:
        answers = [strip_punctuation(text) for text in answers]
    return _agreement(vqa_normalised(answer), answers)


def _agreement(said: str, answers: Sequence[str]) -> float:
    alike = sum(text == said for text in answers)
    scores = [min(1.0, (alike - (text == said)) / 3) for text in answers]
    return sum(scores) / len(scores)


def textvqa_normalised(text: str) -> str:
    """An answer as TextVQA compares it (M4C's evaluator, which its challenge takes): as VQA does,
    but without commas and question marks, and with a possessive as a word of its own."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normalised(words)


def textvqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """VQA's agreement, where the annotators' answers are normalised as the model's is."""
    return _agreement(textvqa_normalised(answer), [textvqa_normalised(text) for text in given])


# --- exact, yes or no --------------------------------------------------------------------------


def plain(text: str) -> str:
    """Lower case, without punctuation at the ends and with single spaces."""
    return " ".join(text.lower().split()).strip(" .,;:!?\"'")


def pope_yes(text: str) -> bool:
    """POPE's reading: no where the first sentence holds the word no, No or not; yes otherwise.
    Words are what stands between spaces, as in the official code."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not any(word in ("No", "not", "no") for word in words)


def mme_yes(text: str) -> bool | None:
    """MME's reading of the first four letters; None where they say neither."""
    start = text.strip().lower()[:4]
    return True if "yes" in start else False if "no" in start else None


def yes_or_no(text: str) -> bool | None:
    """What a judge says: its first word, yes or no; None for anything else."""
    word = re.match(r"[^a-z]*([a-z]+)", text.lower())
    return {"yes": True, "true": True, "no": False, "false": False}.get(word[1] if word else "")


# --- multiple choice ---------------------------------------------------------------------------


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a free answer names; None where it names none or more than one.

    First a letter: "B", "(B)", "B.", "the answer is B"; a bare capital A inside a sentence is an
    article. Then the words of an option, the longest that fits.
    """
    letters = LETTERS[: len(options)]
    stripped = text.strip()
    found = re.match(rf"^\(?([{letters}])(?:[).:,]|$|\s*\n)", stripped)
    if found:
        return letters.index(found[1])
    named = re.findall(rf"(?:answer|option|choice)(?:\s+is)?:?\s*\(?([{letters}])\b", stripped)
    named = named or re.findall(rf"\(([{letters}])\)", stripped)
    named = named or re.findall(rf"\b([{letters[1:] or '-'}])\b", stripped)
    if named:
        several = len(set(named)) > 1 or re.search(rf"\bA(?:,| and| or|/) ?{named[0]}\b", stripped)
        return None if several else letters.index(named[0])
    said = f" {plain(stripped)} "
    exact = [k for k, option in enumerate(options) if plain(option) == said.strip()]
    if len(exact) == 1:
        return exact[0]
    inside = [k for k, option in enumerate(options) if plain(option) and _within(option, said)]
    if not inside:
        return None
    longest = max(inside, key=lambda k: len(plain(options[k])))
    whole = plain(options[longest])
    return longest if all(_within(options[k], f" {whole} ") for k in inside) else None


def _within(option: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(plain(option))}(?!\w)", text) is not None


# --- MMMU, MM-Vet ------------------------------------------------------------------------------


def mmmu_choice(text: str, options: Sequence[str]) -> int | None:
    """Which option MMMU reads from an answer: of the letters in brackets, else of the letters that
    stand alone, else (in more than five words) of the options' texts, the one that stands last;
    None where there is none of these, and the official code guesses."""
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    lower = text.lower()
    letters = LETTERS[: len(options)]
    places = [text.rfind(f"({letter})") for letter in letters]
    if max(places) < 0:
        places = [text.rfind(f" {letter} ") for letter in letters]
    if max(places) < 0 and len(text.split()) > 5:
        places = [lower.rfind(option.lower()) for option in options]
    return places.index(max(places)) if max(places) >= 0 else None


def mmmu_values(text: str) -> list[str | float]:
    """A phrase as MMMU compares it: numbers rounded to two places, or lower-case text."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        words = text.lower()
        return [f" {words}", f"{words} "] if len(words) == 1 else [words]


_CONCLUDES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # 1,000
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # 1e3
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def mmmu_open_answers(text: str) -> list[str | float]:
    """What an open answer may mean by MMMU's rules: the conclusions of its lines, and every number
    in them. The official code would also cut before a capital, but after it made them small."""
    text = text.strip().strip(".").lower()
    lines = text.split("\n")
    keys: list[str] = []
    for place, line in enumerate(lines):
        words = (*_CONCLUDES, "=") if place == len(lines) - 1 else _CONCLUDES
        shortest = ""
        for word in words:
            if word in line:
                tail = line.split(word)[-1].strip()
                shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [text]
    found = [number for key in keys for kind in _NUMBERS for number in re.findall(kind, key)]
    return [value for item in (*keys, *found) for value in mmmu_values(item)]


def mmmu_open_right(text: str, answers: Sequence[str]) -> bool:
    """MMMU: a text answer must stand in what was said, a number must be equal."""
    said = mmmu_open_answers(text)
    wanted = [value for answer in answers for value in mmmu_values(answer)]
    return any(
        any(isinstance(want, str) and want in value for want in wanted)
        if isinstance(value, str)
        else value in wanted
        for value in said
    )


def mmvet_share(text: str, answer: str) -> float:
    """Share of an MM-Vet answer's parts (`<AND>`) of which one wording (`<OR>`) is said.

    The official score is a language model's; this is a proxy for it.
    """
    words = re.sub(r"[^\w\s./%-]", " ", text)
    said = f" {plain(words)} "
    parts = [part.split("<OR>") for part in answer.split("<AND>")]
    return sum(any(_within(word, said) for word in part) for part in parts) / len(parts)
