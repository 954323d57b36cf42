"""The lines of the table that `antvisionps check` prints: what was tried, and what it says of the whole run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from antvisionps.models.blocks.resizing import resized_hw
from antvisionps.preflight.estimates import Estimate, extrapolated_peak_bytes, format_bytes, format_s
from antvisionps.preflight.images import ImageSet
from antvisionps.preflight.networks import TrainedNetwork
from antvisionps.preflight.trial import Batch, NetworkTrial


def full_batch(network: TrainedNetwork, images: ImageSet) -> Batch:
    """The largest that the network's training can meet, of images of the usual shape."""
    augmentation = network.training.augmentation
    hw = resized_hw(
        images.hw, short_side_px=max(augmentation.short_sides_px), max_long_side_px=augmentation.max_long_side_px
    )
    return Batch(hw, network.training.schedule.batch_size)


def image_line(images: ImageSet) -> Estimate:
    train = images.train - images.heldout
    amount = f"{train:,} + {images.heldout:,} + {images.val:,}"
    return Estimate("images to train on, held out, of val", amount, images.source)


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
        total_s += seconds + images.predicted * trial.photo_s
        yield Estimate(
            f"{network.name}: training",
            format_s(seconds),
            f"{schedule.iterations:,} iterations x {batches} batches x {step_s:.3g} s, measured",
        )
        yield Estimate(
            f"{network.name}: prediction",
            format_s(images.predicted * trial.photo_s),
            f"{images.predicted:,} images x {trial.photo_s:.3g} s, measured here with random weights",
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
