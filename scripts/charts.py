"""SVG charts of the measuring scripts, by matplotlib (Debian package python3-matplotlib)."""

import sys
from pathlib import Path

COLORS = ("#8c8c8c", "#1f6feb", "#d4691e", "#2da44e", "#8250df")


def pyplot():
    """Returns matplotlib's pyplot without a display; `None` if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no chart: matplotlib is not installed (Debian package python3-matplotlib)", file=sys.stderr)
        return None
    matplotlib.use("svg")
    # Text stays text, and the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hookward", "font.family": "sans-serif", "font.size": 9})
    from matplotlib import pyplot

    return pyplot


def save(plot, figure, path):
    """Writes the chart, and prints its path."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plot.close(figure)
    print(f"chart: {path}", file=sys.stderr)


def bars(path, title, rows, panels):
    """Draws one panel of grouped bars for each of `panels` (key, label, factor).

    A row has `scenario`, `chain` and the keys; the bars of one scenario stand beside each other.
    """
    if (plot := pyplot()) is None:
        return
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    chains = list(dict.fromkeys(row["chain"] for row in rows))
    value = {(row["scenario"], row["chain"]): row for row in rows}
    figure, axes = plot.subplots(1, len(panels), figsize=(3.2 * len(panels), 0.9 + 0.42 * len(scenarios)), sharey=True, layout="constrained")
    figure.suptitle(title, fontsize=10)
    height = 0.8 / len(chains)
    for axis, (key, label, factor) in zip(axes, panels):
        for number, chain in enumerate(chains):
            places = [place + number * height for place in range(len(scenarios))]
            lengths = [(value.get((scenario, chain), {}).get(key) or 0) * factor for scenario in scenarios]
            drawn = axis.barh(places, lengths, height, label=chain, color=COLORS[number % len(COLORS)])
            axis.bar_label(drawn, fmt="{:,.4g}", padding=2, fontsize=7)
        axis.set_title(label, fontsize=9)
        axis.set_yticks([place + 0.4 - height / 2 for place in range(len(scenarios))], scenarios)
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=8, loc="lower right")
    save(plot, figure, path)


def over_time(path, title, answers, memory, window=5):
    """Draws rate, p50 and p99, and memory over time.

    `answers` are (seconds since the start, duration in seconds); `memory` has (seconds, MiB) for each process.
    """
    if (plot := pyplot()) is None:
        return
    windows = {}
    for at, took in answers:
        windows.setdefault(int(at // window), []).append(took * 1000)
    times = [number * window for number in sorted(windows)]
    figure, (rate, latency, used) = plot.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
    figure.suptitle(title, fontsize=10)
    rate.plot(times, [len(windows[number]) / window for number in sorted(windows)], color=COLORS[1])
    rate.set_ylabel("accepted/s")
    for share, color in ((0.5, COLORS[1]), (0.99, COLORS[2])):
        values = [sorted(windows[number])[int((len(windows[number]) - 1) * share)] for number in sorted(windows)]
        latency.plot(times, values, label=f"p{share * 100:.0f}", color=color)
    latency.set_yscale("log")
    latency.set_ylabel("ms")
    latency.legend(fontsize=8)
    for number, (name, points) in enumerate(sorted(memory.items())):
        used.plot([at for at, _ in points], [size for _, size in points], label=name, color=COLORS[number % len(COLORS)], linewidth=1)
    used.set_ylabel("resident MiB")
    used.set_xlabel("seconds")
    used.legend(fontsize=8, ncols=2)
    for axis in (rate, latency, used):
        axis.set_ylim(bottom=None if axis is latency else 0)
        axis.spines[["top", "right"]].set_visible(False)
    save(plot, figure, path)



def outage(path, title, answers, backlog, down, window=1):
    """Draws backlog, answers by status, and response times through an outage.

    `answers` are (seconds since the start, duration in seconds, status); `backlog` are (seconds, number).
    """
    if (plot := pyplot()) is None:
        return
    figure, (waiting, rate, latency) = plot.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
    figure.suptitle(title, fontsize=10)
    waiting.plot([at for at, _ in backlog], [count for _, count in backlog], color=COLORS[2])
    waiting.set_ylabel("pending")
    for number, (status, label) in enumerate((("200", "200, from the application"), ("202", "202, stored"))):
        windows = {}
        for at, _, other in answers:
            windows[int(at // window)] = windows.get(int(at // window), 0) + (other == status)
        times = sorted(windows)
        rate.plot([at * window for at in times], [windows[at] / window for at in times], label=label, color=COLORS[number + 1])
    rate.set_ylabel("answers/s")
    rate.legend(fontsize=8)
    latency.plot([at for at, _, _ in answers], [took * 1000 for _, took, _ in answers], ".", markersize=2, color=COLORS[1], rasterized=True)
    latency.set_yscale("log")
    latency.set_ylabel("response time, ms")
    latency.set_xlabel("seconds")
    for axis in (waiting, rate, latency):
        axis.axvspan(*down, color=COLORS[0], alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    save(plot, figure, path)
