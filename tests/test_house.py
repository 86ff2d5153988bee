"""The package installs as it says: its wheel, its lists of dependencies, its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import srnlib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [*PROJECT["dependencies"], *(spec for name in EXTRAS if name != "all" for spec in EXTRAS[name])]


def pinned(constraints: str) -> dict[str, Version]:
    """The versions of a file of constraints, by lower-case name."""
    lines = (ROOT / constraints).read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all([specifier.operator for specifier in pin.specifier] == ["=="] for pin in pins)
    return {pin.name.lower(): Version(next(iter(pin.specifier)).version) for pin in pins}


@pytest.mark.parametrize("text", DEPENDENCIES)
def test_ranges_are_open_and_tested_versions_lie_inside(text: str):
    requirement = Requirement(text)
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    assert pinned("constraints.txt")[requirement.name.lower()] in requirement.specifier
    oldest = pinned("constraints-oldest.txt")[requirement.name.lower()]
    assert oldest in requirement.specifier and str(oldest).startswith(bound.version)


def test_conda_environment_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["name"] == PROJECT["name"]
    *conda, pip = environment["dependencies"]
    specs = {Requirement(spec).name: Requirement(spec).specifier for spec in conda}
    assert specs == {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    (installed,) = pip["pip"]  # the package itself, and through it every dependency
    extras = re.fullmatch(r"-e \.\[(.+)\]", installed)[1]
    assert Requirement(f"srnlib[{extras}]").extras == {"all"}
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == "srnlib" and everything.extras == EXTRAS.keys() - {"all"}


def test_public_names():
    for name in ["refine", "SetRefiner", "GraphRefiner", "FSPool", "SetEncoder", "PairSetEncoder", "GraphEncoder"]:
        assert callable(getattr(srnlib, name))
    assert sorted(srnlib.__all__) == srnlib.__all__
    assert Version(srnlib.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{srnlib.__version__}]" in changelog
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == srnlib.__version__


def test_wheel_holds_the_package_and_works_outside_the_checkout(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    package = ROOT / "srnlib"
    wanted = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")} | {"srnlib/py.typed"}
    assert names == wanted

    # -I: neither PYTHONPATH nor the current folder. The checkout may be installed editable, so the wheel goes first.
    modules = [name.removesuffix(".py").replace("/", ".") for name in sorted(names) if re.search(r"(?<!__)\.py$", name)]
    script = (
        f"import sys, json, importlib; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"print(json.dumps([importlib.import_module(name).__file__ for name in {['srnlib', *modules]!r}]))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(Path(file).is_relative_to(tmp_path) for file in json.loads(result.stdout))


def test_git_ignores_what_a_killed_program_leaves_of_a_file():
    name = "data/results/circles/.0123456789abcdef.tmp"  # as srnlib/files.py calls it
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT).returncode == 0


def test_ci_calls_make_test_and_adds_nothing():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    commands = [line for line in script.splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ['exec make test "$@"']
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert runs and all(run.split()[:2] == ["make", "test"] for run in runs)


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make as from a shell, even when these tests run under make."""
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKEOVERRIDES"}}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_make_explains_itself():
    listed = make().stdout
    for target in ["lab", "notebooks", "build", "test", "lint", "train", "tables", "bench"]:
        assert f"  make {target} " in listed


def test_make_refuses_an_old_or_missing_python(tmp_path: Path):
    old = tmp_path / "python3"  # the real interpreter, posing as 3.10
    old.write_text(f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 10)\nexec(sys.argv[2])\n")
    old.chmod(0o755)
    for python, message in [(old, "needs Python 3.11 or newer; "), (tmp_path / "none", "Say which Python to use")]:
        result = make("install", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
        assert result.returncode != 0
        assert message in result.stdout
    assert not (tmp_path / "venv").exists()


def test_submodules_are_there_without_a_further_import():
    code = """
import srnlib
assert srnlib.data.circles.generate(1, 0)[0].shape == (1, 3, 64, 64) and callable(srnlib.metrics.decomposed)
for package in (srnlib, srnlib.data):
    assert not hasattr(package, "nothing") and not hasattr(package, "_nothing")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
