"""Counters in the text format of Prometheus."""

import threading
from collections.abc import Mapping

HELP = {
    "img2img_requests_total": ("counter", "Requests by path and status."),
    "img2img_images_total": ("counter", "Images by model and outcome: done, failed, or left by their client."),
    "img2img_batches_total": ("counter", "Batches given to the engine, by model."),
    "img2img_seconds_sum": ("counter", "Seconds from upload to result, summed over the images that are done."),
    "img2img_slots_used": ("gauge", "Requests that are received, waiting or computed."),
    "img2img_slots": ("gauge", "The most that there may be."),
    "img2img_waiting": ("gauge", "Requests that wait for a worker."),
}


class Counts:
    """Counters that any thread may add to."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter, which has an entry in `HELP`."""
        with self._lock:
            key = name, tuple(sorted(labels.items()))
            self._values[key] = self._values.get(key, 0) + amount

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a counter over all that have these labels."""
        with self._lock:
            return sum(
                n for (key, has), n in self._values.items() if key == name and labels.items() <= dict(has).items()
            )

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all counters, and `gauges`, as Prometheus reads them."""
        with self._lock:
            values = dict(self._values)
        values |= {(name, ()): value for name, value in gauges.items()}
        lines = []
        for name, (kind, text) in HELP.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            for (key, labels), value in sorted(values.items()):
                if key == name:
                    inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
                    lines.append(f"{name}{{{inner}}} {value:g}" if inner else f"{name} {value:g}")
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
