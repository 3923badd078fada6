"""Strict scoring: names and arguments exactly as expected, order of calls ignored."""
import json
import math
import random

RESAMPLES = 2000


def canonical(calls):
    """Calls as a sorted list of texts; 40 and 40.0 are one number, argument order means nothing."""
    def plain(value):
        if isinstance(value, float) and value == int(value):
            return int(value)
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return value
    return sorted(json.dumps({"name": c["name"], "arguments": plain(c["arguments"])}, sort_keys=True, ensure_ascii=False) for c in calls)


def read_calls(message):
    """Calls of an OpenAI message; arguments that are no JSON object count as a call nobody could run."""
    found = []
    for item in message.get("tool_calls") or []:
        arguments = item["function"].get("arguments")
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
        except ValueError:
            arguments = {"unreadable": str(item["function"].get("arguments"))}
        found.append({"name": item["function"].get("name"), "arguments": arguments})
    return found


def wilson(right, total, z=1.96):
    """95 % interval of a share, in percent."""
    if not total:
        return 0.0, 100.0
    share = right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))


def bootstrap(flags, seed=1):
    """95 % percentile interval of the mean of 0/1 flags over resampled requests, in percent."""
    rng, total = random.Random(seed), len(flags)
    if not total:
        return 0.0, 100.0
    means = sorted(sum(rng.choices(flags, k=total)) / total for _ in range(RESAMPLES))
    return 100 * means[round(0.025 * RESAMPLES)], 100 * means[round(0.975 * RESAMPLES) - 1]


def coverage(sure, right, precision=0.98):
    """(share of requests answered, lowest surety answered): the most that can be answered so that `precision` of the answers are right."""
    ranked = sorted(zip(sure, right), key=lambda pair: -pair[0])
    best, good = (0.0, float("inf")), 0
    for count, (surety, flag) in enumerate(ranked, 1):
        good += flag
        last = count == len(ranked) or ranked[count][0] < surety
        if last and good >= precision * count:
            best = (count / len(ranked), surety)
    return best


def coverage_lines(rows, sure, right):
    """Printable: the coverage at 98 % precision of all rows, and with the threshold of the dev halves on the test halves."""
    share, _ = coverage(sure, right)
    lines = [f"coverage at 98 % precision: {100 * share:.1f} % of {len(rows)}"]
    half = [row.get("split", "").rsplit(", ", 1)[-1] for row in rows]
    dev, test = ([(s, r) for s, r, h in zip(sure, right, half) if h == name] for name in ("dev", "test"))
    if dev and test:
        limit = coverage(*zip(*dev))[1]
        taken = [r for s, r in test if s >= limit]
        lines.append(f"the dev halves' threshold on the test halves: {len(taken)} of {len(test)} answered, {sum(taken)} of these right")
    return lines


def verdict(row, got):
    """right; false call (none was wanted); no call (one was wanted); wrong action (a call with another effect)."""
    if any(canonical(wanted) == canonical(got) for wanted in row.get("accepted", [row["expected"]])):
        return "right"
    if not row["expected"]:
        return "false call"
    return "wrong action" if got else "no call"


def record(path, rows, verdicts):
    """Verdicts as JSON lines, for `judge.compare`."""
    path.write_text("".join(json.dumps({"id": f"{row.get('split', '')} {row['id']}".strip(), "verdict": v}) + "\n" for row, v in zip(rows, verdicts)), encoding="utf-8")


def share(title, flags):
    alike = len(set(flags)) < 2  # resampling cannot tell how far off the share may be
    low, high = wilson(sum(flags), len(flags)) if alike else bootstrap(flags)
    return f"{title} {sum(flags)}/{len(flags)} = {100 * sum(flags) / max(1, len(flags)):.1f} % (95 %, {'Wilson' if alike else 'bootstrap'}: {low:.1f} to {high:.1f})"


def summary(rows, verdicts):
    """Printable lines for rows and their verdicts: score, calls, rates; then by split and by task."""
    right = [v == "right" for v in verdicts]
    low, high = wilson(sum(right), len(right))
    lines = [f"score {sum(right)}/{len(right)} = {100 * sum(right) / max(1, len(right)):.1f} %, 95 % interval {low:.1f} to {high:.1f}"]
    wanting = [v for row, v in zip(rows, verdicts) if row["expected"]]
    quiet = [v for row, v in zip(rows, verdicts) if not row["expected"]]
    lines.append(share("requests that want calls, exactly right:", [v == "right" for v in wanting]))
    lines.append(share("wrong actions, of the requests that want calls:", [v == "wrong action" for v in wanting]))
    lines.append(share("false calls, of the requests that want none:", [v == "false call" for v in quiet]))
    lines.append(", ".join(f"{name}: {verdicts.count(name)}" for name in ("wrong action", "false call", "no call", "error")))
    for split in dict.fromkeys(row["split"] for row in rows if row.get("split")):
        chosen = [(row, v) for row, v in zip(rows, verdicts) if row.get("split") == split]
        lines.append(share(f"{split}:", [v == "right" for _, v in chosen]) + f", calls {sum(v == 'right' for row, v in chosen if row['expected'])}/{sum(bool(row['expected']) for row, _ in chosen)}")
    groups = {}
    for row, v in zip(rows, verdicts):
        groups.setdefault(row["id"].rsplit("-", 1)[0], []).append(v == "right")
    return lines + ["by task: " + ", ".join(f"{g} {sum(v)}/{len(v)}" for g, v in groups.items())]
