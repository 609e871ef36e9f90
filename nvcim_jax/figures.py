"""Pictures of results."""

from collections.abc import Mapping
from pathlib import Path

from nvcim_jax.metrics import Interval


def bars(path: Path, tables: Mapping[str, Mapping[str, Interval]], *, title: str) -> None:
    """One panel per task, one bar per method with its 95 % interval, written as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(next(iter(tables.values())))
    height = 1.2 + 0.28 * len(methods)
    figure, panels = plt.subplots(
        1, len(tables), figsize=(3.2 + 2.1 * len(tables), height), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (task, table) in zip(panels[0], tables.items(), strict=True):
        for row, method in enumerate(methods):
            if method not in table:
                continue
            mean, low, high, _ = table[method]
            panel.barh(row, mean, color=_colour(method), height=0.7)
            panel.plot([low, high], [row, row], color="black", linewidth=1)
        panel.set_title(task, fontsize=10)
        panel.set_xlim(0, 1)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(range(len(methods)), methods, fontsize=8)
    panels[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    figure.supxlabel("accuracy (LaMP-1, 2, 3) or ROUGE-1 (LaMP-5, 7), mean over users with 95 % interval", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _colour(method: str) -> str:
    if method.endswith("NVCiM-PT"):
        return "tab:green"
    if "MIPS" in method:
        return "tab:blue"
    return "tab:gray" if "OVT" not in method else "tab:olive"
