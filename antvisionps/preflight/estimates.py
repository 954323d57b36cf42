"""The table that `antvisionps check` prints: what a run needs of disk, memory and time, and how that is known."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from antvisionps.models.blocks.resizing import resized_hw
from antvisionps.params.whole import SEMANTIC_ENDS
from antvisionps.preflight.images import ImageSet
from antvisionps.preflight.networks import TrainedNetwork
from antvisionps.preflight.trial import Batch, NetworkTrial

CACHE_BYTES, CACHE_PIXELS = 173_000, 480 * 640
"""Of one end's predictions of an image, and that image's pixels: half of what `python benchmarks/fusion.py` prints as
the cache of both ends."""

REPORT_BYTES = 109_000
"""Of the report page's maps and segments of an image of that size, as `python benchmarks/report_page.py` prints it."""

CHECKPOINTS_AT_ONCE = 3
"""mmengine keeps two, and writes the next before it removes the older."""

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Estimate:
    """A line of the table: how much of what, and how that is known."""

    quantity: str
    amount: str
    source: str


def full_batch(network: TrainedNetwork, images: ImageSet) -> Batch:
    """The largest that a process of the network's training can meet, of images of the usual shape."""
    augmentation = network.training.augmentation
    hw = resized_hw(
        images.hw, short_side_px=max(augmentation.short_sides_px), max_long_side_px=augmentation.max_long_side_px
    )
    share = network.training.schedule.batch_size // network.processes
    return Batch(hw, max(share, 2 if network.end in SEMANTIC_ENDS else 1))  # HRNet-ASPP's norm needs two images


def image_line(images: ImageSet) -> Estimate:
    train = images.train - images.heldout - images.monitor
    amount = f"{train:,} + {images.heldout:,} + {images.val:,} + {images.monitor:,}"
    return Estimate("images to train on, held out, of val, of monitor", amount, images.source)


def network_lines(
    networks: Sequence[TrainedNetwork], trials: Mapping[str, NetworkTrial], images: ImageSet
) -> Iterator[Estimate]:
    """Of each network that was tried, by name; then the time of all whose steps had the run's own size."""
    total_s = 0.0
    for network in networks:
        if network.name not in trials:
            continue
        trial, full = trials[network.name], full_batch(network, images)
        yield Estimate(f"{network.name}: parameters", f"{trial.parameters / 1e6:.1f} M", "counted")
        yield Estimate(
            f"{network.name}: a checkpoint",
            format_bytes(trial.checkpoint_bytes),
            f"weights {format_bytes(trial.weights_bytes)} and the optimiser's state after a step, counted",
        )
        yield _memory_line(network, trial, full)
        schedule, batches = network.training.schedule, network.training.optimizer.accumulated_batches
        if trial.steps[-1].batch != full:
            yield Estimate(f"{network.name}: time", "unknown", "needs a GPU: run this check on the one to be used")
            continue
        step_s = trial.steps[-1].step_s
        seconds = schedule.iterations * batches * step_s
        photo_s = trial.photo_s * network.predicting
        predict_s = images.predicted * photo_s / network.processes
        total_s += seconds + predict_s
        yield Estimate(
            f"{network.name}: training",
            format_s(seconds),
            f"{schedule.iterations:,} iterations x {batches} batches x {step_s:.3g} s, measured",
        )
        yield Estimate(
            f"{network.name}: prediction",
            format_s(predict_s),
            f"{images.predicted:,} images x {photo_s:.3g} s / {network.processes} processes, measured here with "
            "random weights",
        )
    if total_s:
        yield Estimate("time of all, one after the other", format_s(total_s), "the sum; loading of images comes on top")


def _memory_line(network: TrainedNetwork, trial: NetworkTrial, full: Batch) -> Estimate:
    what = f"{network.name}: memory of a step"
    size = f"{full.images} x {full.hw[0]} x {full.hw[1]} px"
    peaks = [(step.batch.pixels, step.peak_bytes) for step in trial.steps[-2:] if step.peak_bytes is not None]
    if not peaks:
        return Estimate(what, "unknown", "this system does not tell a process's peak")
    if trial.steps[-1].batch == full:
        return Estimate(what, format_bytes(peaks[-1][1]), f"measured, {size}; on a CPU the whole process")
    sizes = " and ".join(f"{pixels:,}" for pixels, _ in peaks)
    peak = extrapolated_peak_bytes(*peaks, pixels=full.pixels, training_bytes=trial.training_bytes)
    if peak is None:
        return Estimate(what, f"over {format_bytes(trial.training_bytes)}", "weights, gradients, optimiser's state")
    return Estimate(
        what,
        f"about {format_bytes(peak)}",
        f"rough: this process's peaks at {sizes} px, in float32, drawn on to {size}; most regions of interest are left "
        "out, autocast takes less; on a GPU it is measured",
    )


def disk_needs(
    trials: Collection[NetworkTrial], images: ImageSet, *, ends: int, download_bytes: int
) -> list[tuple[str, int, str]]:
    """What a whole run, whose images are predicted by each of the ends, writes to disk; how many bytes, and how that is
    known."""
    scale = images.hw[0] * images.hw[1] / CACHE_PIXELS
    weights = sum(trial.kept_bytes for trial in trials)
    checkpoint = max((trial.checkpoint_bytes for trial in trials), default=0)
    needs = [
        ("data to download", download_bytes, "archives and their contents; half of it stays"),
        (
            "checkpoints of a training",
            CHECKPOINTS_AT_ONCE * checkpoint,
            f"{CHECKPOINTS_AT_ONCE} at once x weights and optimiser state of the largest network, "
            f"{format_bytes(checkpoint)}, counted",
        ),
        (
            "trained weights, twice",
            2 * weights,
            f"state dicts of {len(trials)} networks and their snapshots, counted; in data/ and in DVC's cache",
        ),
        (
            "cache of predictions, twice",
            round(2 * images.predicted * ends * CACHE_BYTES * scale),
            f"{images.predicted:,} images x {ends} ends x {format_bytes(CACHE_BYTES)} x {scale:.2f} for the size",
        ),
        (
            "report page, twice",
            round(2 * images.predicted * REPORT_BYTES * scale),
            f"at most {format_bytes(REPORT_BYTES)} an image x {scale:.2f}",
        ),
    ]  # fmt: skip
    return [need for need in needs if need[1]]


def extrapolated_peak_bytes(
    small: tuple[int, int], large: tuple[int, int], *, pixels: int, training_bytes: int
) -> int | None:
    """The peak at `pixels` a step, from (pixels, peak bytes) of two steps: a line through them, and at least what stays
    in memory anyway. None where the larger step did not take more."""
    (few, low), (many, high) = small, large
    if many <= few or high <= low:
        return None
    return max(training_bytes, round(high + (high - low) / (many - few) * (pixels - many)))


def format_bytes(num_bytes: float) -> str:
    """`1.9 GB`, decimal."""
    for unit in UNITS[:-1]:
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {UNITS[-1]}"


def format_s(seconds: float) -> str:
    """`3.2 days`, `4.1 hours`, `12 minutes`, `1.4 s`."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
