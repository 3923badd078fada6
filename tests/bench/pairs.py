"""Paired samples to a ratio with an interval, and rows of bench.json."""
import numpy as np

RESAMPLES = 4000


def ratio(moed, peer, more_is_better):
    """(median of the paired ratios, lower and upper bound of its 95 % bootstrap interval); above 1 is in moed's favour."""
    moed, peer = np.asarray(moed, float), np.asarray(peer, float)
    each = moed / peer if more_is_better else peer / moed
    picks = np.random.default_rng(0).integers(0, len(each), (RESAMPLES, len(each)))
    low, high = np.percentile(np.median(each[picks], axis=1), [2.5, 97.5])
    return float(np.median(each)), float(low), float(high)


class Rows:
    """Collects pairs by row."""

    def __init__(self):
        self.held = {}

    def add(self, name, moed, peer, bar=None, more_is_better=True):
        """One pair. `bar` is what the ratio must reach, None for a row that only informs."""
        row = self.held.setdefault(name, {"bar": bar, "more": more_is_better, "moed": [], "peer": []})
        row["moed"].append(float(moed))
        row["peer"].append(float(peer))

    def finished(self):
        """The rows as bench.json has them: medians, ratio, interval, whether the lower bound clears the bar."""
        rows = []
        for name, row in self.held.items():
            middle, low, high = ratio(row["moed"], row["peer"], row["more"])
            met = None if row["bar"] is None else bool(low >= row["bar"])
            samples = [[float(f"{ours:.5g}"), float(f"{theirs:.5g}")] for ours, theirs in zip(row["moed"], row["peer"])]
            rows.append({"name": name, "moed": float(np.median(row["moed"])), "peer": float(np.median(row["peer"])), "ratio": middle, "low": low, "high": high,
                         "bar": row["bar"], "met": met, "samples": samples})
        return rows
