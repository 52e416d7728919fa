"""Numbers from answers: captions, words, features, and how sure a mean is.

Pure functions over strings and arrays, each with its source; nothing of models or files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Grams = list[Counter[tuple[str, ...]]]  # of orders 1 to N
RESAMPLES = 1000
CHUNK = 2**18  # places drawn at once


# --- CIDEr -------------------------------------------------------------------------------------


def words_of(caption: str) -> list[str]:
    """Lower-case words and numbers, without punctuation."""
    return re.findall(r"[\w]+(?:['-]\w+)*", caption.lower())


def _grams(caption: str, orders: int) -> Grams:
    words = words_of(caption)
    return [
        Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))
        for n in range(1, orders + 1)
    ]


def cider(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    robust: bool = True,
    orders: int = 4,
    sigma: float = 6.0,
) -> dict[str, float]:
    """CIDEr of each caption, https://arxiv.org/abs/1411.5726; the corpus score is their mean.

    n-grams weigh by how often they stand in a caption and how rarely in the references of other
    pictures; the score is ten times their cosine, meaned over references and orders.

    Args:
        candidates: picture -> caption.
        references: picture -> captions by people; document frequencies are theirs.
        robust: CIDEr-D: counts are clipped to the reference's, and a difference in length costs
            a Gaussian factor. This is what is usually reported.
    """
    grams = {key: [_grams(text, orders) for text in texts] for key, texts in references.items()}
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in grams.values():
        frequency.update({gram for text in texts for counts in text for gram in counts})
    total = math.log(max(1, len(references)))

    def weigh(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {
            gram: count * (total - math.log(max(1, frequency[gram])))
            for gram, count in counts.items()
        }

    def similarity(said: Grams, wanted: Grams) -> float:
        out = 0.0
        for one, two in zip(map(weigh, said), map(weigh, wanted), strict=True):
            clipped = {g: min(v, two.get(g, 0.0)) if robust else v for g, v in one.items()}
            dot = sum(value * two.get(gram, 0.0) for gram, value in clipped.items())
            size = math.hypot(*one.values()) * math.hypot(*two.values())
            out += dot / size if size else 0.0
        if robust:
            # lengths are counted in bigrams, as the reference implementation does
            gap = sum(said[1].values()) - sum(wanted[1].values())
            out *= math.exp(-(gap**2) / (2 * sigma**2))
        return out / orders

    scores = {}
    for key, caption in candidates.items():
        said = _grams(caption, orders)
        texts = grams[key]
        scores[key] = 10 * sum(similarity(said, text) for text in texts) / len(texts)
    return scores


# --- words -------------------------------------------------------------------------------------


def word_errors(said: str, wanted: str) -> tuple[int, int]:
    """Errors (substituted, deleted and inserted words) and words of the reference, by jiwer.

    Raises:
        ValueError: jiwer is not installed, or the reference is empty.
    """
    try:
        import jiwer
    except ImportError:
        raise ValueError("word error rates need the package jiwer; pip install jiwer") from None
    reference, heard = (" ".join(words_of(text)) for text in (wanted, said))
    if not reference:
        raise ValueError("a transcript without words has no word error rate")
    found = jiwer.process_words(reference, heard)
    return found.substitutions + found.deletions + found.insertions, len(reference.split())


# --- features ----------------------------------------------------------------------------------


def frechet_distance(one: np.ndarray, two: np.ndarray) -> float:
    """Fréchet distance of two sets of features as Gaussians, https://arxiv.org/abs/1706.08500:
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), in float64.

    The trace of the root is the sum of the singular values of A^T B where C1 = A A^T, C2 = B B^T:
    no matrix root is taken, so nothing turns complex for few samples. Of many samples the
    triangle of a QR decomposition stands for them, which has the same singular values.

    Args:
        one, two: (samples, features), at least two samples each.

    Raises:
        ValueError: fewer samples, or features of different length.
    """
    _check_features(one, two, 2)
    one, two = (np.asarray(x, np.float64) for x in (one, two))
    first, second = one.mean(0), two.mean(0)
    a = (one - first) / math.sqrt(len(one) - 1)
    b = (two - second) / math.sqrt(len(two) - 1)
    corners = [np.linalg.qr(x, mode="r") if len(x) > x.shape[1] else x for x in (a, b)]
    cross = np.linalg.svd(np.dot(corners[0], np.transpose(corners[1])), compute_uv=False).sum()
    spread = (a**2).sum() + (b**2).sum() - 2 * cross
    return max(0.0, float(((first - second) ** 2).sum() + spread))


def frechet_draws(
    one: np.ndarray, two: np.ndarray, *, seed: int = 0, resamples: int = 20
) -> list[float]:
    """Fréchet distances of paired sets whose items are drawn again with replacement, a bootstrap.

    Args:
        one, two: (items, samples of an item, features); item k of one belongs to item k of two.
    """
    rng = np.random.default_rng(seed)
    places = rng.integers(len(one), size=(resamples, len(one)))
    return [
        frechet_distance(*(x[row].reshape(-1, x.shape[-1]) for x in (one, two))) for row in places
    ]


def around(value: float, draws: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Standard error and 95% interval of a distance from its bootstrap. Sets drawn with replacement
    lie further apart than the sets they are drawn from, so the draws are moved to have their mean
    at the value; a distance is not below 0."""
    low, high = np.quantile(draws, [0.025, 0.975]) - np.mean(draws) + value
    return float(np.std(draws, ddof=1)), (max(0.0, float(low)), float(high))


def manifold_members(
    real: np.ndarray, made: np.ndarray, k: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the made samples lie inside the manifold of the real ones, and the other way round,
    https://arxiv.org/abs/1904.06991: the union of balls that reach from each to its k-th neighbour.

    Args:
        real, made: (samples, features), more than k samples each.

    Returns:
        1.0 or 0.0 of each, (made,) and (real,); their means are precision and recall.
    """
    _check_features(real, made, k + 1)
    real, made = (np.asarray(x, np.float64) for x in (real, made))
    between = _distances(made, real)  # (made, real)
    of_made = np.any(between <= _radii(real, k)[None], axis=1)
    of_real = np.any(between.T <= _radii(made, k)[None], axis=1)
    return np.asarray(of_made, np.float64), np.asarray(of_real, np.float64)


def precision_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: the shares of `manifold_members`."""
    inside = manifold_members(real, made, k)
    return float(inside[0].mean()), float(inside[1].mean())


def _distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Euclidean, (n, d) and (m, d) -> (n, m), row by row: exact where a sample meets itself."""
    return np.stack([np.sqrt(((two - row) ** 2).sum(1)) for row in one])


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    return np.sort(_distances(points, points), 1)[:, k]  # column 0 is the point itself


def _check_features(one: np.ndarray, two: np.ndarray, least: int) -> None:
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1]:
        raise ValueError(f"features of shapes {one.shape} and {two.shape} cannot be compared")
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise ValueError("features that are no numbers; whose encoder is this?")
    if min(len(one), len(two)) < least:
        raise ValueError(f"{min(len(one), len(two))} pictures; this needs at least {least}")


# --- how sure ----------------------------------------------------------------------------------


def bootstrap(
    units: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, tuple[float, float]]:
    """Standard error of a statistic, and its 95% percentile interval.

    Args:
        units: (n, …); what is drawn again, with replacement.
        groups: draws stay within each, for means of groups' means.
    """
    n = len(units)
    if n < 2:
        value = statistic(units) if n else 0.0
        return 0.0, (value, value)
    rng = np.random.default_rng(seed)
    places = [np.arange(n)]
    if groups is not None:
        keys = np.array([str(group) for group in groups])
        places = [np.flatnonzero(keys == key) for key in np.unique(keys)]
    values: list[float] = []
    while len(values) < resamples:
        many = min(resamples - len(values), max(1, CHUNK // n))
        drawn = [place[rng.integers(len(place), size=(many, len(place)))] for place in places]
        values += [statistic(units[row]) for row in np.concatenate(drawn, 1)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(np.std(values, ddof=1)), (float(low), float(high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test: whether two models that answered the same samples
    differ, from the samples that just one of them got right."""
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)
