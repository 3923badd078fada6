"""Plots of bench.json, written as SVG by hand: a bar a row with its interval and its bar."""
import html
import math

WIDTH, LABEL, LINE, TOP = 1060, 560, 22, 54
COLOURS = {True: "#2e7d32", False: "#c62828", None: "#546e7a"}
SPAN = (0.25, 16.0)  # ratios from a quarter to sixteen times, on a logarithmic axis


def place(ratio):
    """Where a ratio lies on the axis, in pixels."""
    low, high = (math.log2(value) for value in SPAN)
    part = (math.log2(min(max(ratio, SPAN[0]), SPAN[1])) - low) / (high - low)
    return LABEL + part * (WIDTH - LABEL - 70)


def text(x, y, content, anchor="start", colour="#222", size=12):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{html.escape(content)}</text>'


def line(x1, y1, x2, y2, colour, width=1, dash=""):
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def ratios(title, rows):
    """The whole picture as SVG text."""
    height = TOP + LINE * len(rows) + 24
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
             f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>', text(12, 20, title, size=14)]
    for power in range(-2, 5):
        x = place(2.0**power)
        parts += [line(x, TOP - 12, x, height - 20, "#222" if power == 0 else "#ddd"), text(x, TOP - 18, f"{2.0**power:g} ×", "middle", "#666", 11)]
    for number, row in enumerate(rows):
        y, colour = TOP + LINE * number + LINE / 2, COLOURS[row["met"]]
        one, end = place(1.0), place(row["ratio"])
        parts += [text(LABEL - 60, y + 4, row["name"], "end"), f'<rect x="{min(one, end):.1f}" y="{y - 6:.1f}" width="{max(abs(end - one), 1):.1f}" height="12" fill="{colour}" fill-opacity="0.75"/>',
                  line(place(row["low"]), y, place(row["high"]), y, "#000", 2), text(WIDTH - 8, y + 4, f"{row['ratio']:.2f} ×", "end")]
        if row["bar"] is not None:
            parts.append(line(place(row["bar"]), y - 9, place(row["bar"]), y + 9, "#000", 2, "3 2"))
    parts.append(text(12, height - 6, "green: the bar (dashed) is cleared by the lower bound of the interval (black); red: it is not; grey: no bar", colour="#666", size=11))
    return "\n".join([*parts, "</svg>"]) + "\n"


def write(report, folder):
    """One picture a model."""
    for prefix, name in (("497M", "bench-497m.svg"), ("default", "bench-default.svg")):
        rows = [row for row in report["rows"] if row["name"].startswith(prefix + ":") and row["ratio"] is not None]
        if rows:
            title = f"moed against its peers, {prefix} model, times better; {report['machine']['cpu']}, {report['machine']['cores']} cores"
            (folder / name).write_text(ratios(title, [row | {"name": row["name"].removeprefix(prefix + ": ")} for row in rows]), encoding="utf-8")
