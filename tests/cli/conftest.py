import pytest


@pytest.fixture
def in_the_run(tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
