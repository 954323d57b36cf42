import sys
from pathlib import Path

import pytest

from antvisionps.preflight import doctor
from antvisionps.preflight.doctor import Finding, examine

PROJECT = Path(__file__).parents[2]
NEEDS_TORCH = {"torch", "torchvision", "onedl-mmcv", "onedl-mmdetection", "onedl-mmengine", "timm"}


def findings(project: Path = PROJECT) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(project)}


@pytest.fixture
def without_torch(monkeypatch) -> None:
    """As in the base install."""
    is_installed = doctor._is_installed
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name not in NEEDS_TORCH and is_installed(name))
    for name in ("torch", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_whole_installation_has_nothing_wrong():
    found = findings()
    assert [finding for finding in found.values() if finding.severity == "wrong"] == []
    assert {"python", "torch", "torchvision", "onedl-mmcv", "onedl-mmdetection", "timm", "dvc", "pyarrow"} <= set(found)
    assert "served by" in found["mmcv's operators"].message
    assert found["params.yaml"].message.startswith("valid")
    assert "cpu" in found


def test_without_torch_it_works_and_says_what_to_install(without_torch):
    found = findings()
    remedy = f"{sys.executable} -m pip install --no-deps -r requirements.lock"
    for name in NEEDS_TORCH:
        assert found[name] == Finding("wrong", name, "missing; training and prediction need it", remedy)
    assert found["numpy"].severity == "ok"
    assert "mmcv's operators" not in found


def test_without_a_lock_the_remedy_names_the_extra(without_torch, tmp_path):
    assert findings(tmp_path)["torch"].remedy == f"{sys.executable} -m pip install 'antvisionps[models]'"


def test_a_version_out_of_range_is_wrong_and_a_package_of_the_tests_is_nobodys_concern(monkeypatch, without_torch):
    required = ["numpy>=99", "no-such-logger>=1; extra == 'loggers'", "no-such-oracle>=1; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: required)
    found = findings()
    assert found["numpy"].severity == "wrong"
    assert "expected >=99" in found["numpy"].message
    logger = found["no-such-logger"]
    assert (logger.severity, logger.message) == ("note", "missing; only runtime.loggers needs it")
    assert logger.remedy == f"{sys.executable} -m pip install 'antvisionps[loggers]'"
    assert "no-such-oracle" not in found


def test_a_package_that_is_not_installed_itself_is_told(monkeypatch, without_torch):
    def refuse(_: str) -> list[str]:
        raise doctor.metadata.PackageNotFoundError

    monkeypatch.setattr(doctor.metadata, "requires", refuse)
    assert findings()["antvisionps"].severity == "wrong"


def test_a_library_that_does_not_load_is_told_with_the_remedy(monkeypatch, without_torch):
    import_module = doctor.importlib.import_module

    def fail_for_cv2(name: str) -> object:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return import_module(name)

    monkeypatch.setattr(doctor.importlib, "import_module", fail_for_cv2)
    assert "libGL.so.1" in findings()["cv2"].message
    assert "uninstall --yes opencv-python " in (findings()["cv2"].remedy or "")


def test_broken_params_are_told(tmp_path, without_torch):
    (tmp_path / "params.yaml").write_text("speed: 1\n")
    found = findings(tmp_path)["params.yaml"]
    assert found.severity == "wrong"
    assert "speed: unknown key" in found.message


def test_a_device_that_is_not_there_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    text = (PROJECT / "params.yaml").read_text()
    assert "device: auto" in text
    (tmp_path / "params.yaml").write_text(text.replace("device: auto", "device: cuda"))
    assert findings(tmp_path)["runtime.device"].severity == "wrong"


def test_another_python_on_path_is_a_note(monkeypatch, without_torch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = findings()
    assert found["git"].severity == "wrong"
    if (PROJECT / "dvc.yaml").exists():
        assert found["PATH"].severity == "note"
        assert "activate" in (found["PATH"].remedy or "")


def test_the_python_that_the_environment_was_made_from_is_another_one(monkeypatch, without_torch, tmp_path):
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"which is {tmp_path / 'python'} here and not {sys.executable}" in findings(tmp_path)["PATH"].message
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "PATH" not in findings(tmp_path)
