"""How pytest runs the notebooks: more patience for output, and no cell after the first that fails."""

import pytest

FIRST_FAILURE = pytest.StashKey[str]()


def _is_cell(item: pytest.Item) -> bool:
    return type(item).__name__ == "IPyNbCell"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in filter(_is_cell, items):
        item.output_timeout = 60  # seconds to wait for output; nbval has no option for it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if _is_cell(item) and report.failed:
        item.parent.stash.setdefault(FIRST_FAILURE, item.name)
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _is_cell(item) and FIRST_FAILURE in item.parent.stash:
        pytest.skip(f"{item.parent.stash[FIRST_FAILURE]} of this notebook failed")
