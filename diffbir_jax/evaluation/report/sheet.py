"""Scores of several results on the same images as arrays: the best method, the worst images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffbir_jax.console.errors import UserError
from diffbir_jax.evaluation.result import Column, Image, Result

# Metrics that model human judgement, those with ground truths first. The first computed one orders the images.
PERCEPTUAL = ("lpips", "lpips_vgg", "dists", "musiq", "maniqa", "clipiqa")
# Keys of `Image.files` that all methods share, with their titles on pages.
SHARED = {"lq": "Input", "gt": "Ground truth"}


@dataclass(frozen=True)
class Pane:
    """One of the pictures that an image may have.

    Attributes:
        title: its title on pages.
        key: in `Image.files`.
        method: index of the result with the file; None if any result may have it.
    """

    title: str
    key: str
    method: int | None = None


@dataclass(frozen=True)
class Sheet:
    """Results of one or several methods on the same images.

    Attributes:
        results: one per method, at least one, each with the same images.
    """

    results: tuple[Result, ...]

    def __post_init__(self) -> None:
        """Raise ValueError if there is no result, or if the results have different images."""
        if not self.results:
            raise UserError("no result given; a report needs one or more")
        first = self.results[0]
        for other in self.results[1:]:
            apart = sorted(set(self.images) ^ {image.name for image in other.images})
            if apart:
                some = ", ".join(apart[:3]) + (", ..." if len(apart) > 3 else "")
                raise UserError(
                    f"{first.name} and {other.name} are not of the same images: {len(apart)} are in one only "
                    f"({some}); evaluate both on the same images, or report them apart"
                )

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Names of the images, in the first result's order."""
        return tuple(image.name for image in self.results[0].images)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods; equal names are numbered."""
        names = [result.name for result in self.results]
        numbered = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        return tuple(
            name if names.count(name) == 1 else other for name, other in zip(names, numbered, strict=True)
        )

    @cached_property
    def by_name(self) -> tuple[Mapping[str, Image], ...]:
        """Every result's images by name."""
        return tuple({image.name: image for image in result.images} for result in self.results)

    @cached_property
    def panes(self) -> tuple[Pane, ...]:
        """Input and ground truth if any result has them, then the methods."""
        known = {key for result in self.results for image in result.images for key in image.files}
        shared = [Pane(title, key) for key, title in SHARED.items() if key in known]
        return (*shared, *(Pane(name, "pred", i) for i, name in enumerate(self.methods)))

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Panes shown first. Left: input, ground truth or another method. Right: the best method."""
        shared = len(self.panes) - len(self.methods)
        # Left and right differ, also without input and ground truth.
        return (0 if shared or self.best else len(self.methods) - 1), shared + self.best

    @cached_property
    def columns(self) -> Mapping[str, Column]:
        """Metrics that any result has, by name, in order of first appearance."""
        return {name: column for result in self.results for name, column in result.columns.items()}

    @cached_property
    def scores(self) -> Mapping[str, np.ndarray]:
        """(methods, images) float64 of every metric that scores images one by one; NaN for a missing score."""
        found = {}
        for metric in self.columns:
            rows = [[images[name].scores.get(metric) for name in self.images] for images in self.by_name]
            array = np.array(rows, np.float64)
            array[~np.isfinite(array)] = np.nan
            if not np.isnan(array).all():
                found[metric] = array
        return found

    @cached_property
    def leading(self) -> str | None:
        """The metric that orders images at first: a perceptual one, else SSIM, else any; None without scores."""
        preferred = [*PERCEPTUAL, "ssim", *self.scores]
        return next((metric for metric in preferred if metric in self.scores), None)

    @cached_property
    def best(self) -> int:
        """Index of the method with the best mean of the leading metric; the first of equals."""
        if self.leading is None:
            return 0
        means = self._sign(self.leading) * self.means(self.leading)
        return int(np.argmin(np.where(np.isnan(means), np.inf, means)))

    def means(self, metric: str) -> np.ndarray:
        """(methods,) float64, the means in the summaries; NaN for a missing mean."""
        found = [result.summary.get(metric) for result in self.results]
        return np.array([None if summary is None else summary.mean for summary in found], np.float64)

    def whole_means(self, metric: str) -> np.ndarray:
        """The `means` over the most images; the others are NaN, because they had an easier task."""
        counts = np.array(
            [result.summary[metric].count if metric in result.summary else 0 for result in self.results]
        )
        return np.where(counts == counts.max(), self.means(metric), np.nan)

    def worst_first(self, metric: str | None, method: int | None = None) -> list[int]:
        """Order images by a metric, worst first and those without a score last.

        Args:
            metric: a key of `scores`; None keeps the order.
            method: index of the method whose scores count; None takes the worst of all methods' for each image.

        Returns:
            Indices of `images`.
        """
        if metric is None:
            return list(range(len(self.images)))
        badness = self._sign(metric) * self.scores[metric]
        # Missing scores must never count as the worst.
        badness = np.where(np.isnan(badness), -np.inf, badness)
        row = badness.max(axis=0) if method is None else badness[method]
        # Stable: equal scores keep the order of names, so the page is the same every time.
        return np.argsort(-row, kind="stable").tolist()

    def cases(self, count: int) -> list[int]:
        """Choose images to show: the worst of every metric, then the second worst of every metric, ...

        Returns:
            At most `count` indices of `images`, increasing.
        """
        place = np.full(len(self.images), len(self.images))
        for metric in self.scores:
            order = self.worst_first(metric)
            # An image's place is its best rank in any metric's list of worst images.
            place[order] = np.minimum(place[order], np.arange(len(order)))
        return sorted(np.argsort(place, kind="stable")[:count].tolist())

    def text(self, metric: str, value: float | None) -> str:
        """Write a number with the decimals of its metric; "–" for None and NaN."""
        return "–" if value is None or not np.isfinite(value) else f"{value:.{self._decimals[metric]}f}"

    def best_of(self, metric: str, values: np.ndarray) -> str | None:
        """Return the best of several values as `text` writes it, so that all values that look equal can be marked.

        None if there are fewer than two numbers.
        """
        if np.isfinite(values).sum() < 2:
            return None
        # The comparison is of printed texts: values that look equal must not be marked differently.
        return self.text(metric, self._sign(metric) * float(np.nanmin(self._sign(metric) * values)))

    def shared(self, reasons: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
        """State once what applies to several methods.

        Args:
            reasons: by method, each by metric.

        Returns:
            Pairs of a metric's title, with the methods concerned unless it is all, and the reason.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for name, by_metric in zip(self.methods, reasons):
            for metric, reason in by_metric.items():
                found.setdefault((metric, reason), []).append(name)
        return [
            (
                (self.columns[metric].title if metric in self.columns else metric)
                + (f" ({', '.join(names)})" if len(names) < len(self.methods) else ""),
                reason,
            )
            for (metric, reason), names in found.items()
        ]

    def _sign(self, metric: str) -> int:
        """Return the sign with which worse scores are larger."""
        return 1 if self.columns[metric].better == "lower" else -1

    @cached_property
    def _decimals(self) -> Mapping[str, int]:
        """Two above 10, as for decibels; four up to 1."""
        found = {}
        for metric in self.columns:
            means = np.abs(self.means(metric))
            largest = np.max(means, initial=0, where=np.isfinite(means))
            found[metric] = 2 if largest > 10 else 3 if largest > 1 else 4
        return found
