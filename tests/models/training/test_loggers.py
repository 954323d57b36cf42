"""Training curves read back by each tool's own reader, without a network."""

import importlib.util
import json
import struct

import pytest

from antvisionps.core.errors import ModelError
from antvisionps.models.training import member
from antvisionps.models.training.loggers import open_loggers
from tests.models.conftest import TRAINING, build
from tests.models.training.test_loop import loss_curve
from tests.models.training.test_loop import run as run_in_folder

run = run_in_folder


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: {point.step: point.value for point in events.Scalars(name)} for name in events.Tags()["scalars"]}


def read_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(folder.as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("antvisionps").experiment_id])
    assert (found.info.run_name, found.info.status) == ("test", "FINISHED")
    return {
        name: {point.step: point.value for point in client.get_metric_history(found.info.run_id, name)}
        for name in found.data.metrics
    }


def read_records(path):
    """The records of a LevelDB log, in which wandb keeps what `wandb sync` sends: blocks of 32 KiB, in them parts with
    a checksum, a length and a kind, of which 1 is whole and 4 the last."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(folder):
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # as at a program's exit: waits until its service has written the file
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    curves = {}
    for data in read_records(path):
        items = Record.FromString(data).history.item
        point = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for name, value in point.items():
            if not name.startswith("_"):
                curves.setdefault(name, {})[point["_step"]] = value
    return curves


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("logger", READERS)
def test_a_logger_has_dvclives_curves(logger, run, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    loggers = open_loggers([logger], name="test", folder=tmp_path / "logs")
    run("run", curve_interval=2, loggers=loggers)
    curves = READERS[logger](tmp_path / "logs" / logger)
    assert curves["loss"] == pytest.approx(loss_curve(tmp_path / "run"), rel=1e-5)
    assert [*curves["learning_rate"]] == [2, 4]


def test_loggers_change_no_weights(run, tmp_path):
    loggers = open_loggers(["tensorboard"], name="test", folder=tmp_path / "logs")
    with_logger, without = run("with", loggers=loggers), run("without")
    assert all(with_logger[name].equal(without[name]) for name in without)


@pytest.mark.parametrize(("rank", "files"), [(0, 1), (1, 0)])
def test_of_several_processes_the_first_alone_logs(rank, files, monkeypatch, dataset, tmp_path):
    def stop(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(member, "get_dist_info", lambda: (rank, 2))
    monkeypatch.setattr(member, "train", stop)
    with pytest.raises(InterruptedError):
        member.train_member(
            dataset,
            build=build,
            end="e_ups",
            network={},
            load_from=None,
            settings=TRAINING,
            checkpoint_interval=1,
            loader_workers=0,
            dataset_fingerprint="",
            work_dir=tmp_path / "work",
            out_dir=tmp_path / "out",
            loggers=["tensorboard"],
        )
    assert len([*tmp_path.rglob("events.out.tfevents.*")]) == files


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr("antvisionps.models.training.loggers.find_spec", lambda name: None if name == "wandb" else find)
    with pytest.raises(ModelError, match=r"runtime.loggers: expected package wandb.*antvisionps\[loggers\]"):
        open_loggers(["wandb"], name="test", folder=tmp_path)
    assert not [*tmp_path.iterdir()]
