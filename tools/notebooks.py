"""Build and run the notebooks: `notebooks/py/*.py` is what we edit, `notebooks/*.ipynb` is built from it.

`python tools/notebooks.py build [stem ...]`: refresh the generated cells, convert, execute, normalise, write.
`python tools/notebooks.py run [stem ...]`: execute what is there, write nothing, print how long each took.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import re
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"

UNSET = "*Open in Colab: no public address yet; upload this notebook there, its first cell says what to do.*"

BOOTSTRAP = """\
# Written by tools/notebooks.py. On Google Colab: install srnlib, keep torch and numpy. Elsewhere: import it.
import sys

if "google.colab" in sys.modules:
    import os
    import shutil
    import subprocess
    import tempfile
    from importlib.metadata import version
    from pathlib import Path

    source = os.environ.get("SRNLIB_SOURCE", "{repository}")  # an address, a folder or a zip file
    if not source:
        raise RuntimeError(
            "The public address of srnlib is not set. Upload a zip of the repository (Files, Upload) or clone it, "
            "then add a cell above: import os; os.environ['SRNLIB_SOURCE'] = 'srnlib.zip' (or the folder's name)."
        )
    scratch = Path(tempfile.mkdtemp())
    if Path(source).is_file():
        shutil.unpack_archive(source, scratch)
    elif not Path(source).is_dir():
        subprocess.run(["git", "clone", "--quiet", "--depth=1", source, scratch / "srnlib"], check=True)
    folder = Path(source).resolve() if Path(source).is_dir() else next(scratch.glob("**/pyproject.toml")).parent
    (scratch / "keep.txt").write_text("".join(f"{{name}}=={{version(name)}}\\n" for name in ("torch", "numpy")))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", scratch / "keep.txt"]
    subprocess.run([*pip, f"{{folder}}[atari]"], check=True)
    os.environ["SRNLIB_DATA"] = str(folder / "data")  # checkpoints and results
import srnlib

print("srnlib", srnlib.__version__)
"""


def repository() -> str:
    """Public address of the repository, `[tool.srnlib] repository` in pyproject.toml; empty while it has none."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["srnlib"]
    return settings["repository"].rstrip("/").removesuffix(".git")


def badge(stem: str, address: str) -> str:
    """Markdown of a notebook's Colab badge; one line that says so while the address is unset.

    Raises:
        ValueError: Colab opens notebooks from GitHub only.
    """
    if not address:
        return UNSET
    if not address.startswith("https://github.com/"):
        raise ValueError(f"[tool.srnlib] repository is {address!r}; expected https://github.com/<owner>/<name>, or ''.")
    place = f"{address.removeprefix('https://')}/blob/main/notebooks/{stem}.ipynb".removeprefix("github.com/")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Colab]({image})](https://colab.research.google.com/github/{place})"


def bootstrap(address: str) -> str:
    """Source of every notebook's first code cell."""
    return BOOTSTRAP.format(repository=address)


def refresh(text: str, stem: str, address: str) -> str:
    """Renew the two generated cells of a py:percent notebook, and write it as jupytext would.

    JupyterLab refuses to open a notebook whose source is older and differs from its own writing by so much as a line.

    Args:
        text: Content of `notebooks/py/<stem>.py`. The cells to renew are tagged `badge` and `bootstrap`.
        stem: Name of the notebook.
        address: Public address of the repository, or an empty string.

    Raises:
        ValueError: A generated cell is missing, or there twice.
    """
    cells = {
        '# %% [markdown] tags=["badge"]': f"# {badge(stem, address)}\n",
        '# %% tags=["bootstrap"]': bootstrap(address),
    }
    for marker, body in cells.items():
        cell = re.compile(rf"^{re.escape(marker)}\n.*?(?=^# %%|\Z)", re.MULTILINE | re.DOTALL)
        text, found = cell.subn(lambda _, whole=f"{marker}\n{body}\n": whole, text)
        if found != 1:
            raise ValueError(f"{stem}.py has {found} cells marked {marker!r}; expected one.")
    notebook = convert(text)
    notebook.metadata = NotebookNode(jupytext={"notebook_metadata_filter": "-all", "cell_metadata_filter": "tags,-all"})
    return jupytext.writes(notebook, fmt="py:percent")


def refresh_readme(text: str, address: str) -> str:
    """Renew the badges of a Markdown page, each between `<!-- badge: stem -->` and `<!-- /badge -->`."""
    between = re.compile(r"(<!-- badge: (\w+) -->).*?(<!-- /badge -->)", re.DOTALL)
    short = "not public yet"
    return between.sub(lambda m: m[1] + (badge(m[2], address) if address else short) + m[3], text)


def convert(text: str) -> NotebookNode:
    """Notebook of a py:percent text: kernel python3, cell ids that depend on the sources only."""
    read = jupytext.reads(text, fmt="py:percent")
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    seen: dict[str, int] = {}
    for cell in read.cells:
        cell.metadata = NotebookNode({"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {})
        key = f"{cell.cell_type}\n{cell.source}"
        seen[key] = seen.get(key, 0) + 1
        cell.id = hashlib.sha256(f"{key}\n{seen[key]}".encode()).hexdigest()[:12]
        notebook.cells.append(cell)
    return notebook


def execute(notebook: NotebookNode) -> tuple[NotebookNode, float]:
    """Run all cells in a fresh kernel in `notebooks/`; the executed notebook and its seconds. An error raises."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        record_timing=False,
        iopub_timeout=60,  # on a busy machine the default of 4 s loses outputs without a word
        raise_on_iopub_timeout=True,
        coalesce_streams=True,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )
    start = time.perf_counter()
    return client.execute(), time.perf_counter() - start


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run (widget views, the kernel's version) and shrink the pictures."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = NotebookNode(name="python")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = shrink(output.data["image/png"])
            cell.metadata.pop("execution", None)
    return notebook


def shrink(png: str) -> str:
    """A picture in base64 with a palette of 256 colours: about a third of the size, and no difference to the eye."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    palette = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["build", "run"])
    parser.add_argument("stems", nargs="*", help="notebooks to take, such as 03_circles; all by default")
    arguments = parser.parse_args()
    sources = {path.stem: path for path in sorted((NOTEBOOKS / "py").glob("[0-9]*.py"))}
    if unknown := set(arguments.stems) - set(sources):
        parser.error(f"no notebook called {', '.join(sorted(unknown))}; there are {', '.join(sources) or 'none'}")

    for stem in arguments.stems or sources:
        target = NOTEBOOKS / f"{stem}.ipynb"
        if arguments.action == "build":
            text = refresh(sources[stem].read_text(encoding="utf-8"), stem, repository())
            sources[stem].write_text(text, encoding="utf-8")
            notebook, seconds = execute(convert(text))
            nbformat.write(normalise(notebook), target)
        else:
            _, seconds = execute(nbformat.read(target, as_version=4))
        print(f"{stem:32s} {seconds:6.1f} s", flush=True)

    readme = ROOT / "README.md"
    if arguments.action == "build" and readme.exists():
        readme.write_text(refresh_readme(readme.read_text(encoding="utf-8"), repository()), encoding="utf-8")


if __name__ == "__main__":
    main()
