"""How good highlight scores are, exactly as the benchmarks of the field count it.

Letters: n clips, U annotators, k first places. Scores are ranked from high to low; equal scores keep their order in
time, so that results repeat.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genmm.core.errors import ShapeError, UsageError

__all__ = [
    "average_precision",
    "boundary_error_s",
    "hit_at_1",
    "interpolated_ap",
    "mininet_top_map",
    "precision_at",
    "qvhighlights_scores",
    "rank_correlation",
    "ranking",
    "trapezoid_ap",
    "tvsum_labels",
    "tvsum_top_map",
    "youtube_ap",
]


def ranking(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Clip numbers [n] from the highest score to the lowest, equal ones in order of time.

    Raises: ShapeError when scores are not one finite row.
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ShapeError(f"scores must be one row of finite numbers, got shape {values.shape}")
    return np.argsort(-values, kind="stable")


def trapezoid_ap(labels: Sequence[int] | np.ndarray) -> float:
    """Area under precision over recall of labels in ranked order, by trapezoids from precision 1 at recall 0.

    Recall counts the positives among these labels, so for the first k places the positives further down do not matter.
    0 without positives. Source: UMT (TencentARC/UMT), datasets/tvsum.py and youtube.py, whose ancestor is MINI-Net.
    """
    hits = np.asarray(labels, bool)
    total = int(hits.sum())
    if not total:
        return 0.0
    found = np.cumsum(hits)
    recall = np.concatenate([[0.0], found / total])
    precision = np.concatenate([[1.0], found / (1 + np.arange(len(hits)))])
    return float(((recall[1:] - recall[:-1]) * (precision[:-1] + precision[1:]) / 2).sum())


def tvsum_labels(annotations: np.ndarray) -> np.ndarray:
    """Which clips each annotator marks, [n, U] bool: importance [n, U] above the lower median of that annotator."""
    values = np.asarray(annotations)
    if values.ndim != 2 or 0 in values.shape:
        raise ShapeError(f"annotations must be [clips, annotators], got {values.shape}")
    lower_median = np.sort(values, axis=0)[(len(values) - 1) // 2]
    return values > lower_median


def tvsum_top_map(scores: Sequence[float] | np.ndarray, annotations: np.ndarray, k: int = 5) -> float:
    """Top-k mAP of one video of TVSum: `trapezoid_ap` of the first k places, averaged over annotators.

    Shapes: scores [n], annotations [n, U]. Raises: ShapeError when they differ in n.
    """
    labels = tvsum_labels(annotations)
    return _top_map(scores, labels, k)


def mininet_top_map(scores: Sequence[float] | np.ndarray, annotations: np.ndarray, k: int = 5) -> float:
    """The variant of MINI-Net: positive is the upper half of the clips by annotation, ties in order of time.

    Far more generous than `tvsum_top_map`, because annotations are heavily tied; the two cannot be compared.
    """
    values = np.asarray(annotations)
    labels = np.zeros(values.shape, bool)
    for column in range(values.shape[1]):
        labels[np.argsort(-values[:, column].astype(np.int64), kind="stable")[: len(values) // 2], column] = True
    return _top_map(scores, labels, k)


def _top_map(scores: Sequence[float] | np.ndarray, labels: np.ndarray, k: int) -> float:
    order = _checked(scores, labels)[:k]
    return float(np.mean([trapezoid_ap(labels[order, column]) for column in range(labels.shape[1])]))


def precision_at(scores: Sequence[float] | np.ndarray, annotations: np.ndarray, k: int = 5) -> float:
    """Share of marked clips among the first k places, averaged over annotators of TVSum."""
    labels = tvsum_labels(annotations)
    return float(labels[_checked(scores, labels)[:k]].mean())


def youtube_ap(scores: Sequence[float] | np.ndarray, labels: Sequence[int] | np.ndarray) -> float:
    """AP of one video of YouTube Highlights: all clips, positive where the label is above 0 (1, 0 borderline, -1)."""
    positive = np.asarray(labels) > 0
    return trapezoid_ap(positive[_checked(scores, positive)])


def average_precision(scores: Sequence[float] | np.ndarray, labels: Sequence[bool] | np.ndarray) -> float:
    """Plain AP over all clips: the mean of the precision at each positive, equal scores sharing their places.

    Clips with one score are taken as shuffled at random, so a constant score gets the share of positives and no
    more. Raises: UsageError without positives.
    """
    positive = np.asarray(labels, bool)
    order = _checked(scores, positive)
    if not positive.any():
        raise UsageError("average precision needs at least one positive clip")
    ranked, values = positive[order], np.asarray(scores, np.float64)[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # last place of each group of equal scores
    found = np.cumsum(ranked)[ends]
    recall_steps = np.diff(found, prepend=0) / positive.sum()
    return float((recall_steps * found / (ends + 1)).sum())


def hit_at_1(scores: Sequence[float] | np.ndarray, labels: Sequence[bool] | np.ndarray) -> float:
    """1 when the clip with the highest score is positive, else 0."""
    positive = np.asarray(labels, bool)
    return float(positive[_checked(scores, positive)[0]])


def interpolated_ap(scores: Sequence[float] | np.ndarray, labels: Sequence[bool] | np.ndarray) -> float:
    """Interpolated AP of QVHighlights: mean, where recall changes, of the highest precision at that recall or above.

    All labels negative give 0, all positive 1. Source: jayleicn/moment_detr, standalone_eval/eval.py.
    """
    positive = np.asarray(labels, bool)
    order = _checked(scores, positive)
    if not positive.any():
        return 0.0
    if positive.all():
        return 1.0
    ranked, values = positive[order], np.asarray(scores, np.float64)[order]
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    found = np.cumsum(ranked)[ends]
    precision, recall = found / (ends + 1), found / positive.sum()
    best = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0) > 0
    return float((best * np.diff(recall, prepend=0.0))[steps].sum())


def qvhighlights_scores(
    scores: Sequence[Sequence[float]], annotations: Sequence[np.ndarray], threshold: int = 4
) -> dict[str, float]:
    """mAP and HIT@1 over queries, in [0, 1], as QVHighlights counts them.

    `scores` are per query, cut or filled with zeros to the number of clips; `annotations` per query [n, 3], 0 to 4
    (clips outside the relevant ones 0). `threshold` 2 is Fair, 3 Good, 4 VeryGood (the headline).
    """
    precisions, hits = [], []
    for given, marked in zip(scores, annotations, strict=True):
        binary = np.asarray(marked) >= threshold
        padded = np.zeros(len(binary))
        padded[: min(len(given), len(binary))] = np.asarray(given, np.float64)[: len(binary)]
        hits.append(float(binary[int(padded.argmax())].max()))
        precisions += [interpolated_ap(padded, binary[:, column]) for column in range(binary.shape[1])]
    return {"mAP": float(np.mean(precisions)), "HIT@1": float(np.mean(hits))}


def rank_correlation(scores: Sequence[float] | np.ndarray, annotations: np.ndarray) -> dict[str, float]:
    """Spearman's rho against the mean annotation, and Kendall's tau (b) averaged over annotators; 0 for constants.

    Shapes: scores [n], annotations [n] or [n, U].
    """
    from scipy.stats import kendalltau, spearmanr

    values = np.asarray(annotations, np.float64).reshape(len(annotations), -1)
    _checked(scores, values)
    if np.ptp(np.asarray(scores, np.float64)) == 0:
        return {"rho": 0.0, "tau": 0.0}
    mean = values.mean(1)
    rho = 0.0 if np.ptp(mean) == 0 else float(spearmanr(scores, mean).statistic)
    each = [kendalltau(scores, column).statistic if np.ptp(column) else 0.0 for column in values.T]
    return {"rho": rho, "tau": float(np.mean(each))}


def boundary_error_s(
    found: Sequence[tuple[float, float]], true: Sequence[tuple[float, float]], *, least_overlap: float = 0.1
) -> float:
    """Mean distance in seconds between the borders of true spans and of the found spans that overlap them most.

    True spans that no found span overlaps by `least_overlap` of their length are left out; NaN when none is overlapped.
    """
    errors = []
    for start, end in true:
        overlaps = [min(end, stop) - max(start, begin) for begin, stop in found]
        if overlaps and max(overlaps) >= least_overlap * (end - start):
            begin, stop = found[int(np.argmax(overlaps))]
            errors += [abs(begin - start), abs(stop - end)]
    return float(np.mean(errors)) if errors else float("nan")


def _checked(scores: Sequence[float] | np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = ranking(scores)
    if len(order) != len(labels):
        raise ShapeError(f"{len(order)} scores do not fit {len(labels)} labelled clips")
    return order
