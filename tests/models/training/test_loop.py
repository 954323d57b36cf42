"""Training on the Runner: what a kill, a damaged checkpoint and a diverging loss lead to."""

import errno
import os
import shutil
import zipfile
from dataclasses import replace
from functools import partial

import pytest
import torch
from mmengine.logging import MessageHub

from antvisionps.core.errors import DataError, ModelError
from antvisionps.core.os_errors import explain
from antvisionps.models.training.loading import open_loader
from antvisionps.models.training.loop import train
from antvisionps.models.training.samples import TrainingSamples
from antvisionps.models.training.weights import save_weights
from tests.models.conftest import TRAINING, build
from tests.pipeline.workspace import bytes_below

SCHEDULE = TRAINING.schedule | {"iterations": 4, "warmup_iterations": 1}
SETTINGS = replace(TRAINING, schedule=SCHEDULE, augmentation=TRAINING.augmentation | {"photometric": 0.2})


class Killed(BaseException):
    """As sudden as a signal: no handler of Exception sees it."""


class SamplesUntilKilled(TrainingSamples):
    def __init__(self, *args, last_sample: int, **settings):
        super().__init__(*args, **settings)
        self._last_sample = last_sample

    def __getitem__(self, key):
        if key[0] > self._last_sample:
            raise Killed
        return super().__getitem__(key)


def runner(dataset, root):
    """Trains a tiny E-UPS in the folder of that name; `last_sample` is the last that can be loaded."""

    def run_in(folder: str, *, last_sample: int = 99, checkpoint_interval: int = 2, workers: int = 0, **changes):
        how = {"name": "test", "workers": workers, "checkpoint_interval": checkpoint_interval}
        how["save"] = partial(save_weights, network={})
        how |= {name: changes.pop(name, None) for name in ("start", "evaluate")} | {
            "loggers": changes.pop("loggers", ())
        }
        settings = replace(SETTINGS, **changes)
        torch.use_deterministic_algorithms(True)
        samples = SamplesUntilKilled(dataset, seed=5, last_sample=last_sample, **settings.augmentation)
        return train(partial(build, "e_ups"), samples, settings, work_dir=root / folder, **how).state_dict()

    return run_in


@pytest.fixture
def run(dataset, tmp_path):
    return runner(dataset, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """The weights of a run that nobody killed."""
    torch.set_num_threads(1)
    return runner(dataset, tmp_path_factory.mktemp("undisturbed"))("whole")


@pytest.fixture(scope="module")
def killed(dataset, tmp_path_factory):
    """A work folder whose run was killed after its third iteration, with a checkpoint of each."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        runner(dataset, root)("killed", last_sample=5, checkpoint_interval=1)
    return root / "killed"


def loss_curve(folder):
    rows = (folder / "curves" / "plots" / "metrics" / "loss.tsv").read_text().splitlines()[1:]
    return {int(step): float(loss) for step, loss in (row.split("\t") for row in rows)}


KILLS = {
    "after a checkpoint": ({}, 2, [1, 2, 3, 4]),
    "between points of the curves": ({"checkpoint_interval": 1, "curve_interval": 2}, 3, [2, 4]),
    "between accumulated batches": (  # three batches are one step, and half of the next
        {
            "checkpoint_interval": 1,
            "schedule": SCHEDULE | {"iterations": 2},
            "memory": SETTINGS.memory | {"checkpointed_stages": [1, 4]},
            "optimizer": SETTINGS.optimizer | {"accumulated_batches": 2},
        },
        2,
        [2, 4],
    ),
}


@pytest.mark.parametrize(("settings", "checkpoint", "steps"), KILLS.values(), ids=KILLS)
def test_a_killed_and_resumed_run_ends_in_the_same_weights_and_curves(run, tmp_path, settings, checkpoint, steps):
    whole = run("whole", **settings)
    with pytest.raises(Killed):
        run("killed", last_sample=5, **settings)  # the third batch of two is trained on, the fourth is not
    assert (tmp_path / "killed" / "last_checkpoint").read_text().endswith(f"iter_{checkpoint}.pth")
    resumed = run("killed", **settings)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert bytes_below(tmp_path / "killed" / "curves") == bytes_below(tmp_path / "whole" / "curves")
    assert list(loss_curve(tmp_path / "whole")) == steps


def test_a_resumed_run_goes_on_from_its_checkpoint_and_does_not_start_again(run, undisturbed):
    started = []

    def start(model):
        started.append(model)
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.01)

    whole = run("whole", start=start)
    assert any(not torch.equal(whole[name], undisturbed[name]) for name in whole)
    with pytest.raises(Killed):
        run("killed", last_sample=5, start=start)
    resumed = run("killed", start=start)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(started) == 2


def worth(model) -> dict[str, float]:
    """Goes up and down with the weights, and draws from the generator that training draws from."""
    torch.rand(3)
    assert not model.training
    return {"PQ": 1e6 * sum(weights.double().sum().item() for weights in model.parameters()) % 100, "AP": 1.0}


def test_average_evaluations_best_weights_and_snapshots_survive_a_kill_at_any_iteration(run, tmp_path):
    kept = {"ema_momentum": 0.3, "evaluate_interval": 1, "keep": "best", "evaluate": worth, "snapshots": (1, 3)}
    whole = run("whole", **kept)
    assert sorted(path.name for path in (tmp_path / "whole" / "snapshots").iterdir()) == ["1", "3"]
    pq = monitor_curve(tmp_path / "whole")
    assert list(pq) == [1, 2, 3, 4]
    assert worth_of(whole) == pytest.approx(max(pq.values()), abs=1e-9)
    for trained in (1, 2, 3):  # the first checkpoint comes after two
        folder = f"killed after {trained}"
        with pytest.raises(Killed):
            run(folder, last_sample=2 * trained - 1, **kept)
        resumed = run(folder, **kept)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        for part in ("curves", "snapshots"):
            assert bytes_below(tmp_path / folder / part) == bytes_below(tmp_path / "whole" / part)


def worth_of(state) -> float:
    model = build("e_ups")
    model.load_state_dict(state)
    return worth(model.eval())["PQ"]


def monitor_curve(folder):
    rows = (folder / "curves" / "plots" / "metrics" / "monitor" / "PQ.tsv").read_text().splitlines()[1:]
    return {int(step): float(value) for step, value in (row.split("\t") for row in rows)}


def test_evaluations_change_no_weight_and_come_at_the_end_too(run, undisturbed, tmp_path):
    watched = run("watched", evaluate_interval=3, evaluate=worth)
    assert all(torch.equal(undisturbed[name], watched[name]) for name in undisturbed)
    assert list(monitor_curve(tmp_path / "watched")) == [3, 4]
    assert monitor_curve(tmp_path / "watched")[4] == pytest.approx(worth_of(watched), abs=1e-9)


@pytest.mark.parametrize("batches", [1, 2])
def test_average_and_snapshots_are_of_what_each_step_leaves(run, tmp_path, batches):
    steps = []

    def remember(model):
        steps.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"PQ": 0.0}

    optimizer = SETTINGS.optimizer | {"accumulated_batches": batches}
    run("steps", optimizer=optimizer, evaluate_interval=1, evaluate=remember, snapshots=(2,))
    averaged = run("averaged", optimizer=optimizer, ema_momentum=0.25)
    assert len(steps) == 4
    snapshot = torch.load(tmp_path / "steps" / "snapshots" / "2" / "weights.pth", weights_only=True)
    assert all(torch.equal(snapshot[name], tensor) for name, tensor in steps[1].items())
    expected = steps[0]
    for step in steps[1:]:
        expected = {name: 0.75 * tensor + 0.25 * step[name] for name, tensor in expected.items()}
    learned = [name for name in expected if not torch.equal(steps[0][name], steps[-1][name])]
    assert learned
    for name in learned:
        torch.testing.assert_close(averaged[name], expected[name])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error", [DataError("photo 7: broken"), OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.png")]
)
def test_an_error_of_a_sample_comes_through_as_it_is(run, monkeypatch, workers, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(TrainingSamples, "__getitem__", fail)
    with pytest.raises(type(error)) as raised:
        run("folder", workers=workers)
    assert explain(raised.value) == explain(error)


@pytest.mark.parametrize("has_gpu", [True, False])
def test_batches_are_pinned_where_there_is_a_gpu(monkeypatch, dataset, has_gpu):
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cuda" if has_gpu else "cpu")
    samples = TrainingSamples(dataset, seed=5, **SETTINGS.augmentation)
    assert open_loader(samples, SETTINGS, workers=0).pin_memory == has_gpu


def test_another_seed_gives_other_weights(run):
    short = SCHEDULE | {"iterations": 2}
    first, second = run("first", schedule=short), run("second", schedule=short, seed=6)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_checkpoints_that_a_kill_left_half_written_are_left_out(run, undisturbed, killed, tmp_path, capsys):
    folder = shutil.copytree(killed, tmp_path / "killed")
    for checkpoint in (folder / "iter_2.pth", folder / "iter_3.pth"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    again = run("killed", checkpoint_interval=1)
    assert capsys.readouterr().err.count("cannot be read and is left out") == 2
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)


def test_a_checkpoint_with_a_flipped_bit_or_a_foreign_name_is_left_out(run, undisturbed, killed, tmp_path, capsys):
    checkpoint = shutil.copytree(killed, tmp_path / "killed") / "iter_3.pth"
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(checkpoint.read_bytes())
    data[largest.header_offset + largest.file_size // 2] ^= 1
    checkpoint.write_bytes(data)
    (tmp_path / "killed" / "iter_best.pth").write_bytes(b"mine")
    again = run("killed", checkpoint_interval=1)
    assert capsys.readouterr().err.count("cannot be read and is left out") == 1
    assert all(torch.equal(undisturbed[name], again[name]) for name in undisturbed)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(run):
    exploding = SETTINGS.optimizer | {"learning_rate": 1e30, "max_grad_norm": None}
    with pytest.raises(ModelError, match=r"not finite|the loss is (nan|inf) at iteration \d; lower the learning rate"):
        run("exploding", optimizer=exploding, schedule=SCHEDULE | {"warmup_iterations": 0})


def test_sgd_with_steps_trains_too(run):
    sgd = SETTINGS.optimizer | {"kind": "sgd", "learning_rate": 0.01, "bias_lr_factor": 2.0}
    weights = run("sgd", optimizer=sgd, schedule=SCHEDULE | {"policy": "step", "milestones": (2, 3)})
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_no_file_of_a_run_stays_open_and_no_history_is_kept(run, tmp_path):
    run("whole")
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [path for path in opened if path.startswith(str(tmp_path / "whole"))]
    assert not MessageHub.get_current_instance().log_scalars
