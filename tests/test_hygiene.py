"""What every committed notebook keeps to, and proof that each check can fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode

import notebooks

SOURCES = {path.stem: path for path in sorted((notebooks.NOTEBOOKS / "py").glob("*.py"))}
HEADINGS = [
    "What you will do",
    "What you will learn",
    "What you will need",
    "Summary and takeaways",
    "Exercises",
    "Next",
]
CHECKED = "nbval-check-output"
ABSOLUTE = re.compile(r"""(?:^|[\s"'`(=\[,])(/(?:[\w.~-]+/)+[\w.-]*|[A-Za-z]:\\+\w+)""", re.MULTILINE)


class Pair(NamedTuple):
    """A notebook beside its source."""

    stem: str
    text: str
    notebook: NotebookNode
    size: int

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def outputs(self) -> list[NotebookNode]:
        return [output for cell in self.code for output in cell.outputs]


def printed(output: NotebookNode) -> str:
    """All text of an output; images left out."""
    data = output.get("data", {})
    return "\n".join([output.get("text", ""), *(str(v) for k, v in data.items() if not k.startswith("image/"))])


def inputs(notebook: NotebookNode) -> list[tuple]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def same_inputs(pair: Pair) -> Iterator[str]:
    if inputs(notebooks.convert(pair.text)) != inputs(pair.notebook):
        yield "the .ipynb is not built from the .py"


def generated_cells(pair: Pair) -> Iterator[str]:
    if notebooks.refresh(pair.text, pair.stem, notebooks.repository()) != pair.text:
        yield "the badge or the first code cell is out of date"
    if pair.code[0].metadata.get("tags") != ["bootstrap"]:
        yield "the first code cell is not the bootstrap"


def ran_in_order(pair: Pair) -> Iterator[str]:
    counts = [cell.execution_count for cell in pair.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}"


def clean_outputs(pair: Pair) -> Iterator[str]:
    for output in pair.outputs:
        if output.output_type == "error" or output.get("name") == "stderr":
            yield f"an error or stderr is stored: {printed(output)[:80]}"
        if "image/svg+xml" in output.get("data", {}) or "<svg" in printed(output):
            yield "an SVG is stored"
        if re.search(r" at 0x[0-9a-f]{6,}", printed(output)):
            yield f"an object's address is stored: {printed(output)[:80]}"


def no_widgets(pair: Pair) -> Iterator[str]:
    views = [output for output in pair.outputs if notebooks.WIDGET in output.get("data", {})]
    if views or "widgets" in pair.notebook.metadata:
        yield "a widget is stored"


def no_absolute_paths(pair: Pair) -> Iterator[str]:
    for text in [*(cell.source for cell in pair.notebook.cells), *map(printed, pair.outputs)]:
        yield from (f"an absolute path: {path}" for path in ABSOLUTE.findall(text))


def small(pair: Pair) -> Iterator[str]:
    if len(pair.notebook.cells) > 40:
        yield f"{len(pair.notebook.cells)} cells; at most 40"
    for cell in pair.code:
        if len(cell.source.splitlines()) > 30:
            yield f"{len(cell.source.splitlines())} lines in a cell; at most 30: {cell.source.splitlines()[0]}"
    if pair.size > 300_000:
        yield f"{pair.size} bytes; at most 300000"


def claims_something(pair: Pair) -> Iterator[str]:
    trees = [ast.parse(cell.source) for cell in pair.code if "get_ipython" not in cell.source]
    if not any(isinstance(node, ast.Assert) for tree in trees for node in ast.walk(tree)):
        yield "no assert"
    checked = [cell for cell in pair.code if CHECKED in cell.metadata.get("tags", [])]
    if not checked:
        yield f"no cell tagged {CHECKED}"
    for cell in checked:
        if not cell.outputs:
            yield f"tagged {CHECKED} but without stored output: {cell.source.splitlines()[0]}"


def only_python(pair: Pair) -> Iterator[str]:
    for cell in pair.code:
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield f"not plain Python (a magic or shell line?): {error.text}"
        if "get_ipython" in cell.source:
            yield "get_ipython"


def fixed_headings(pair: Pair) -> Iterator[str]:
    prose = [cell.source for cell in pair.notebook.cells if cell.cell_type == "markdown"]
    prose = [re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL) for text in prose]
    titles = re.findall(r"^# (.+)", "\n".join(prose), re.MULTILINE)
    if len(titles) != 1 or not prose[0].startswith("# "):
        yield f"one title, at the top; found {titles}"
    if "**Paper:**" not in prose[0] or not re.search(r"\*\*Running time:\*\* .*\d+", prose[0]):
        yield "no '**Paper:**' or no '**Running time:**' with a number under the title"
    found = [heading for heading in re.findall(r"^## (.+)", "\n".join(prose), re.MULTILINE) if heading in HEADINGS]
    if found != HEADINGS:
        yield f"headings {found}; expected {HEADINGS}"


CHECKS = [
    same_inputs,
    generated_cells,
    ran_in_order,
    clean_outputs,
    no_widgets,
    no_absolute_paths,
    small,
    claims_something,
    only_python,
    fixed_headings,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("stem", SOURCES)
def test_notebook(stem: str, check: Callable[[Pair], Iterator[str]]):
    built = notebooks.NOTEBOOKS / f"{stem}.ipynb"
    assert built.exists(), f"{built.name} is not built: make build NOTEBOOK={stem}"
    pair = Pair(stem, SOURCES[stem].read_text("utf-8"), nbformat.read(built, as_version=4), built.stat().st_size)
    assert list(check(pair)) == []


def test_every_notebook_has_a_source():
    assert SOURCES.keys() == {path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb")} != set()


def test_readme_badges_are_current():
    text = (notebooks.ROOT / "README.md").read_text("utf-8")
    assert notebooks.refresh_readme(text, notebooks.repository()) == text


# --- The checks themselves: each accepts GOOD and refuses what was done to it. ---

GOOD = notebooks.refresh(
    """\
# %% [markdown]
# # Add a set
#
# **Paper:** section 2. **Running time:** about 1 minute.

# %% [markdown] tags=["badge"]

# %% [markdown]
# ## What you will do
# ## What you will learn
# ## What you will need

# %% tags=["bootstrap"]

# %% tags=["nbval-check-output"]
assert 1 + 1 == 2
print(2)

# %% [markdown]
# ## Summary and takeaways
# ## Exercises
# ## Next
""",
    "good",
    notebooks.repository(),
)


def good() -> Pair:
    pair = Pair("good", GOOD, notebooks.convert(GOOD), 10_000)
    for count, cell in enumerate(pair.code, 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
    return pair


def with_text(old: str, new: str) -> Callable[[Pair], Pair]:
    """Doctor the source, and the notebook with it."""

    def doctor(pair: Pair) -> Pair:
        assert old in pair.text
        text = pair.text.replace(old, new)
        return pair._replace(text=text, notebook=notebooks.convert(text))

    return doctor


def with_output(kind: str, **fields) -> Callable[[Pair], Pair]:
    """Store one more output in the last code cell."""

    def doctor(pair: Pair) -> Pair:
        pair.code[-1].outputs.append(nbformat.v4.new_output(kind, **fields))
        return pair

    return doctor


def skipped_count(pair: Pair) -> Pair:
    pair.code[-1].execution_count = 7
    return pair


def saved_widget_state(pair: Pair) -> Pair:
    pair.notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    return pair


def changed_input(pair: Pair) -> Pair:
    pair.notebook.cells[-1].source += " "
    return pair


def lost_output(pair: Pair) -> Pair:
    pair.code[-1].outputs = []
    return pair


DOCTORED = [
    (same_inputs, changed_input),
    (same_inputs, lambda pair: pair._replace(text=pair.text.replace(f' tags=["{CHECKED}"]', ""))),
    (generated_cells, with_text('print("srnlib", srnlib.__version__)', "pass")),
    (generated_cells, with_text('# %% tags=["bootstrap"]', '# %%\nx = 1\n\n# %% tags=["bootstrap"]')),
    (ran_in_order, skipped_count),
    (clean_outputs, with_output("stream", name="stderr", text="careful")),
    (clean_outputs, with_output("error", ename="ValueError", evalue="no", traceback=[])),
    (clean_outputs, with_output("display_data", data={"image/svg+xml": "<svg/>"})),
    (clean_outputs, with_output("display_data", data={"text/html": "<div><svg></svg></div>"})),
    (clean_outputs, with_output("execute_result", data={"text/plain": "<Line2D at 0x7f00aa11>"}, execution_count=2)),
    (no_widgets, saved_widget_state),
    (no_widgets, with_output("display_data", data={notebooks.WIDGET: {"model_id": "1"}})),
    (no_absolute_paths, with_output("stream", name="stdout", text="saved in /home/me/figure.png")),
    (no_absolute_paths, with_text("print(2)", r'print("C:\\data")')),
    (small, with_text("print(2)", "print(2)\n" * 30)),
    (small, with_text("# ## Next", "# ## Next\n" + "\n# %%\nx = 1\n" * 40)),
    (small, lambda pair: pair._replace(size=300_001)),
    (claims_something, with_text("assert 1 + 1 == 2\n", "")),
    (claims_something, with_text("assert 1 + 1 == 2", "# assert 1 + 1 == 2")),
    (claims_something, with_text(f' tags=["{CHECKED}"]', "")),
    (claims_something, lost_output),
    (only_python, with_text("print(2)", "%time print(2)")),
    (only_python, with_text("print(2)", "!ls")),
    (only_python, with_text("print(2)", 'get_ipython().system("ls")')),
    (fixed_headings, with_text("# ## Exercises\n", "")),
    (fixed_headings, with_text("# ## Exercises\n# ## Next\n", "# ## Next\n# ## Exercises\n")),
    (fixed_headings, with_text("# # Add a set", "# Add a set")),
    (fixed_headings, with_text("about 1 minute", "short")),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checks_accept_a_good_notebook(check: Callable[[Pair], Iterator[str]]):
    assert list(check(good())) == []
    assert check in dict(DOCTORED), "no doctored notebook shows that this check can fail"


@pytest.mark.parametrize(("check", "doctor"), DOCTORED)
def test_checks_refuse_a_doctored_notebook(check: Callable[[Pair], Iterator[str]], doctor: Callable[[Pair], Pair]):
    assert list(check(doctor(good())))


def test_an_address_reaches_badge_bootstrap_and_readme():
    address = "https://github.com/someone/srnlib"
    text = notebooks.refresh(GOOD, "good", address)
    assert "https://colab.research.google.com/github/someone/srnlib/blob/main/notebooks/good.ipynb" in text
    assert f'"{address}")  # an address' in text
    assert notebooks.refresh(text, "good", "") == notebooks.refresh(GOOD, "good", "")
    page = notebooks.refresh_readme("| <!-- badge: good --><!-- /badge --> |", address)
    assert "someone/srnlib/blob/main/notebooks/good.ipynb" in page
    assert notebooks.refresh_readme(page, address) == page
    with pytest.raises(ValueError, match="expected https://github.com"):
        notebooks.badge("good", "https://example.org/srnlib")


@pytest.mark.parametrize("marker", ['# %% [markdown] tags=["badge"]', '# %% tags=["bootstrap"]'])
@pytest.mark.parametrize("times", [0, 2])
def test_missing_or_doubled_markers_are_named(marker: str, times: int):
    with pytest.raises(ValueError, match=f"good.py has {times} cells"):
        notebooks.refresh(GOOD.replace(marker, f"{marker}\n\n" * times), "good", "")


def test_cell_ids_depend_on_the_source_only():
    ids = [cell.id for cell in notebooks.convert(GOOD + "\n# %%\nx = 1\n\n# %%\nx = 1\n").cells]
    assert len(set(ids)) == len(ids)
    assert ids[:-2] == [cell.id for cell in notebooks.convert(GOOD).cells]
