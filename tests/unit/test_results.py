"""Records and the tables made of them."""

import json
import statistics

import pytest

from srnlib import results
from srnlib.tasks import TASKS, Task


class Toy(Task):
    name, models = "toy", ("baseline", "srn")
    rows = {"acc": "accuracy, %", "other": "other, %"}
    headline = {"acc": ("baseline", "srn")}
    paper = {"srn": {"acc": 95.8}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "results" / "toy"
    folder.mkdir(parents=True)
    return folder


def put(folder, model, seed, profile="laptop", **metrics):
    record = {"model": model, "profile": profile, "seed": seed, "metrics": metrics}
    record["history"] = [{"step": 1, "core_seconds": 30.0 * seed}, {"step": 2, "core_seconds": 60.0 * (seed + 1)}]
    (folder / f"{model}-{profile}-seed{seed}.json").write_text(json.dumps(record))


def test_data_dir_is_the_setting_or_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("SRNLIB_DATA", str(tmp_path))
    assert results.data_dir() == tmp_path
    monkeypatch.delenv("SRNLIB_DATA")
    assert results.data_dir().name == "data" and (results.data_dir().parent / "pyproject.toml").is_file()


def test_data_dir_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.delenv("SRNLIB_DATA", raising=False)
    monkeypatch.setattr(results, "__file__", str(tmp_path / "site-packages" / "srnlib" / "results.py"))
    inside = tmp_path / "clone" / "notebooks"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert str(results.data_dir()) == "data"
    (tmp_path / "clone" / "pyproject.toml").write_text('[project]\nname = "srnlib"\n')
    assert results.data_dir() == tmp_path / "clone" / "data"


def test_load_narrows_and_refuses_by_name(folder):
    put(folder, "srn", 0, acc=1.0)
    put(folder, "srn", 1, acc=2.0)
    put(folder, "baseline", 0, acc=3.0)
    put(folder, "srn", 0, "laptop+steps=5", acc=4.0)
    assert len(results.load("toy")) == 4
    assert [r["seed"] for r in results.load("toy", "srn", "laptop")] == [0, 1]
    assert results.profiles(Toy()) == ["laptop", "laptop+steps=5"] and results.profiles(Toy(), False) == ["laptop"]
    good = results.load("toy")[0]
    histories, metrics = ([], [1], [{"step": 1}]), (3, {"acc": "high"}, {"acc": None}, {"acc": [1.0]})
    for damage in (*({"history": h} for h in histories), *({"metrics": m} for m in metrics)):
        (folder / "srn-laptop-seed2.json").write_text(json.dumps(good | damage))
        with pytest.raises(ValueError, match=r"srn-laptop-seed2\.json is not a record"):
            results.load("toy")
    (folder / "srn-laptop-seed2.json").write_text("{")
    with pytest.raises(ValueError, match=r"srn-laptop-seed2\.json is not a record"):
        results.load("toy")


def test_table_by_hand(folder):
    for seed, value in enumerate((90.0, 92.0, 97.0)):
        put(folder, "srn", seed, acc=value)
    put(folder, "baseline", 0, acc=40.04)
    assert results.table(Toy()).splitlines() == [
        "| | baseline, ours (n=1) | srn, paper | srn, ours (n=3) |",
        "|---|---:|---:|---:|",
        "| accuracy, % | 40.0 | 95.8 | 93.0 ± 3.6 |",
        "| other, % | – | – | – |",
        "",
        "Ours: profile `laptop`, n seeds, mean ± sd; CPU core-minutes a training: baseline 1, srn 2.",
    ]
    assert round(statistics.stdev((90, 92, 97)), 1) == 3.6


def test_overview_by_hand(folder):
    for seed, value in enumerate((90.0, 92.0, 97.0)):
        put(folder, "srn", seed, acc=value)
    head, line = "| | | baseline, paper | baseline, ours | SRN, paper | SRN, ours |", "|---|---|---:|---:|---:|---:|"
    assert results.overview([Toy()]).splitlines() == [
        *(head, line),
        "| toy: baseline, srn | accuracy, % | – | – | 95.8 | 93.0 ± 3.6 (n=3) |",
    ]
    assert results.overview([Toy()], "paper").splitlines() == [head, line]


def test_refresh_replaces_the_block_only_and_twice_is_once():
    text = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n"
    new = results.refresh(text, "new")
    assert new == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    assert results.refresh(new, "new") == new


@pytest.mark.parametrize("text", ["", "<!-- results -->", "<!-- /results -->\n<!-- results -->"])
def test_refresh_needs_its_markers(text):
    with pytest.raises(ValueError, match="<!-- results -->"):
        results.refresh(text, "new")


def test_environment_names_versions():
    found = results.environment()
    assert {"srnlib", "python", "torch", "numpy", "accelerate", "safetensors"} == set(found["versions"])
    assert found["cpu"] and found["threads"] >= 1 and found["commit"]


@pytest.mark.parametrize("name", list(TASKS))
def test_tasks_are_consistent(name):
    task = TASKS[name]
    assert task.name == name and set(task.paper) <= set(task.models)
    for numbers in task.paper.values():
        assert set(numbers) <= set(task.rows)
    for key, pair in task.headline.items():
        assert key in task.rows and set(pair) <= set(task.models)
