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

    def __init__(self, about):
        """about: what every row says of where it comes from."""
        self.held, self.about = {}, about

    def add(self, name, moed, peer, bar=None, more_is_better=True, of=""):
        """One pair. `bar` is what the ratio must reach, None for a row that only informs; `of`: which of several peers it was."""
        row = self.held.setdefault(name, {"bar": bar, "more": more_is_better, "of": of, "moed": [], "peer": []})
        row["moed"].append(float(moed))
        row["peer"].append(float(peer))

    def finished(self):
        """The rows as bench.json has them: medians, ratio, interval, whether the lower bound clears the bar."""
        rows = []
        for name, row in self.held.items():
            middle, low, high = ratio(row["moed"], row["peer"], row["more"])
            met = None if row["bar"] is None else bool(low >= row["bar"])
            samples = [[float(f"{ours:.5g}"), float(f"{theirs:.5g}")] for ours, theirs in zip(row["moed"], row["peer"])]
            rows.append({"name": name, "of": row["of"], "moed": float(np.median(row["moed"])), "peer": float(np.median(row["peer"])), "ratio": middle, "low": low, "high": high,
                         "bar": row["bar"], "met": met, "samples": samples} | self.about)
        return rows

    def missing(self, name, reason):
        """A row that was asked for and could not be measured."""
        return {"name": name, "of": "", "moed": None, "peer": None, "ratio": None, "low": None, "high": None, "bar": None, "met": False, "samples": [], "failed": reason} | self.about
