"""Lock files."""

import subprocess
import sys
import threading

import pytest

from alexnet_jax import locks
from alexnet_jax.errors import UserError
from alexnet_jax.locks import is_locked, locked


def test_one_at_a_time(tmp_path):
    path = tmp_path / "new" / ".lock"
    assert not is_locked(path)
    with locked(path, "busy"):
        assert is_locked(path)
        with pytest.raises(UserError, match="busy"), locked(path, "busy"):
            pass
        assert is_locked(path)  # the refused one has freed nothing
    assert not is_locked(path)


def test_a_holder_that_dies_frees_it(tmp_path):
    path = tmp_path / ".lock"
    script = (
        "import os, sys; from pathlib import Path; from alexnet_jax.locks import locked\nwith locked(Path(sys.argv[1]), ''): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.exists()
    assert not is_locked(path)


def test_waiting(tmp_path, capsys):
    path, order = tmp_path / ".lock", []

    def second():
        with locked(path, "busy", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path, "busy"):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().err == "busy\n"


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with locked(tmp_path / ".lock", "busy"):
        assert not is_locked(tmp_path / ".lock")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*file/\.lock: .*; make room or choose another directory"),
        locked(tmp_path / "file" / ".lock", ""),
    ):
        pass
