"""The first cell of every notebook, run for real as on Colab: a clean environment that already has torch and numpy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution, version
from pathlib import Path

import numpy
import pytest
import torch
from packaging.requirements import Requirement

import notebooks

# What Colab does before our cell, then the cell, then what must hold.
SESSION = """
import sys, types
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.ModuleType("google.colab")
{cell}
import json, os, numpy, torch
from importlib.metadata import version
versions = [version("torch"), torch.__version__, version("numpy"), numpy.__version__]
print(json.dumps([*versions, srnlib.__file__, os.environ["SRNLIB_DATA"]]))
"""


def link_distribution(name: str, site: Path, done: set[str]) -> None:
    """Install a distribution and what it needs by hard links: to pip they are there, to the disk they cost nothing."""
    if name.lower() in done:
        return
    done.add(name.lower())
    source = distribution(name)
    for file in source.files:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = site / file
            if target.exists():  # torch's CUDA packages share some
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source.locate_file(file), target)
            except OSError:  # another file system
                shutil.copy2(source.locate_file(file), target)
    for requirement in map(Requirement, source.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            link_distribution(requirement.name, site, done)


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with torch, numpy, what these need, and pip: nothing else."""
    home = tmp_path_factory.mktemp("colab")
    venv.create(home, with_pip=True)
    (site,) = home.glob("lib/python*/site-packages")
    done: set[str] = set()
    for name in ("torch", "numpy"):
        link_distribution(name, site, done)
    return home / "bin" / "python"


def run_cell(python: Path, cwd: Path, source: str | None, address: str = "") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "SRNLIB_SOURCE", "SRNLIB_DATA"}}
    environment["GIT_TERMINAL_PROMPT"] = "0"
    if source is not None:
        environment["SRNLIB_SOURCE"] = source
    script = SESSION.format(cell=notebooks.bootstrap(address))
    return subprocess.run([python, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone or an uploaded zip holds, without the data and the local environments."""
    folder = tmp_path_factory.mktemp("upload") / "srnlib-main"
    shutil.copytree(notebooks.ROOT / "srnlib", folder / "srnlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "data/README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(notebooks.ROOT / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip", "clone"])
def test_first_cell_installs_and_keeps_torch_and_numpy(colab: Path, checkout: Path, tmp_path: Path, kind: str):
    source, address = str(notebooks.ROOT), ""
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "srnlib"), "zip", checkout.parent)
    elif kind == "clone":
        git = ["git", "-c", "user.name=srnlib", "-c", "user.email=srnlib@example.org", "-C", str(checkout)]
        for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "upload"]):
            subprocess.run([*git, *command], check=True)
        source, address = None, checkout.as_uri()
    result = run_cell(colab, tmp_path, source, address)
    assert result.returncode == 0, result.stderr
    *versions, package, data = json.loads(result.stdout.splitlines()[-1])
    assert versions == [version("torch"), torch.__version__, version("numpy"), numpy.__version__]
    assert Path(package).is_relative_to(colab.parent.parent)
    assert (Path(data) / "README.md").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "The public address of srnlib is not set. Upload a zip"),
        ("nowhere.zip", "'nowhere.zip' does not exist"),
        ("file:///nowhere/srnlib", "returned non-zero exit status"),
    ],
)
def test_first_cell_fails_loudly_without_a_source(colab: Path, tmp_path: Path, source: str | None, message: str):
    result = run_cell(colab, tmp_path, source)
    assert result.returncode != 0
    assert message in result.stderr


def test_first_cell_elsewhere_only_imports():
    result = subprocess.run([sys.executable, "-c", notebooks.bootstrap("")], capture_output=True, text=True)
    assert result.stdout.startswith("srnlib "), result.stderr
