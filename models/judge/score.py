"""Strict scoring: names and arguments exactly as expected, order of calls ignored."""
import json
import math


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
    return 100 * (middle - half), 100 * (middle + half)


def verdict(expected, got):
    """right; false call (none was wanted); no call (one was wanted); wrong action (a call with another effect)."""
    if canonical(expected) == canonical(got):
        return "right"
    if not expected:
        return "false call"
    return "wrong action" if got else "no call"


def summary(verdicts):
    """Printable lines for [(id, verdict)]."""
    total, right = len(verdicts), sum(v == "right" for _, v in verdicts)
    low, high = wilson(right, total)
    lines = [f"score {right}/{total} = {100 * right / max(1, total):.1f} %, 95 % interval {low:.1f} to {high:.1f}"]
    lines += [f"{name}: {sum(v == name for _, v in verdicts)}" for name in ("wrong action", "false call", "no call", "error")]
    groups = {}
    for identity, v in verdicts:
        groups.setdefault(identity.rsplit("-", 1)[0], []).append(v == "right")
    return lines + ["by task: " + ", ".join(f"{g} {sum(v)}/{len(v)}" for g, v in groups.items())]
