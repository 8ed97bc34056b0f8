# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix and mIoU, used by training, evaluation and reports alike."""

import numpy as np
import numpy.typing as npt


class ConfusionMatrix:
    """Count (true class, predicted class) pairs over any number of label images.

    A pixel whose truth is `ignore` does not count. A prediction outside the classes (255,
    unlabelled) is wrong: a false negative of the true class and a false positive of none.
    """

    def __init__(self, num_classes: int, ignore: int = 255) -> None:
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes is {num_classes}, expected 1 to 255")
        if 0 <= ignore < num_classes:
            raise ValueError(f"ignore is {ignore}, which is a class of {num_classes}")
        self.num_classes = num_classes
        self.ignore = ignore
        # An extra column counts predictions outside the classes.
        self._counts = np.zeros((num_classes, num_classes + 1), np.int64)

    @property
    def matrix(self) -> npt.NDArray[np.int64]:
        """A copy of the counts, int64 (C, C): rows are true classes, columns predicted ones.

        Unlabelled predictions are in no column.
        """
        return self._counts[:, :-1].copy()

    @property
    def truth_pixels(self) -> npt.NDArray[np.int64]:
        """Pixels of each true class, int64 (C,), including those predicted as unlabelled."""
        total: npt.NDArray[np.int64] = self._counts.sum(axis=1)
        return total

    def update(self, labels: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> None:
        """Count one prediction against its truth: integer arrays of equal shape, any rank.

        Raises ValueError if the shapes differ, or if the truth holds a value that is neither a
        class nor `ignore` (most likely a raw id).
        """
        if labels.shape != truth.shape:
            raise ValueError(f"labels have shape {labels.shape}, truth {truth.shape}: not the same")
        counted = truth != self.ignore
        rows = truth[counted].astype(np.int64)
        if rows.size == 0:
            return
        if rows.min() < 0 or rows.max() >= self.num_classes:
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise ValueError(
                f"truth holds {wrong}: expected 0 to {self.num_classes - 1} or {self.ignore}"
            )
        columns = labels[counted].astype(np.int64)
        columns[(columns < 0) | (columns >= self.num_classes)] = self.num_classes
        width = self.num_classes + 1
        counts = np.bincount(rows * width + columns, minlength=self._counts.size)
        self._counts += counts.reshape(self._counts.shape)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of `other`, which must have the same number of classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge {other.num_classes} classes into {self.num_classes}")
        self._counts += other._counts

    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of each class, float64 (C,): TP / (TP + FP + FN), 0 to 1; NaN for a class that is
        neither in the truth nor predicted."""
        hits = self._counts.diagonal().astype(np.float64)
        union = self.truth_pixels + self._counts[:, :-1].sum(axis=0) - hits
        iou = np.full(self.num_classes, np.nan)
        np.divide(hits, union, out=iou, where=union > 0)
        return iou

    def miou(self) -> float:
        """Mean of the IoUs that are not NaN; NaN if nothing was counted."""
        iou = self.iou()
        present = iou[~np.isnan(iou)]
        return float(present.mean()) if present.size else float("nan")

    def pixel_accuracy(self) -> float:
        """Correct pixels / counted pixels, 0 to 1; NaN if nothing was counted."""
        total = int(self._counts.sum())
        return float(self._counts.diagonal().sum()) / total if total else float("nan")
