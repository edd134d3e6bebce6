"""What the site holds beside the pages in this folder, made when it is built (a hook of MkDocs).

- the README as its first page, the changelog, the guide for contributors, and what the benchmarks wrote;
- the pages that `gflow reproduce` wrote, which are docs/papers/*.html;
- the gallery: notebooks in percent format. `make docs` executes them, and keeps what came out in .cache/gallery until
  a notebook or the library changes; without GFLOW_EXECUTE their code alone is shown.

Links that are right in the repository are turned into links of the site, and TeX into MathML, which needs no script.
"""

import hashlib
import html
import os
import posixpath
import re
from pathlib import Path

import jupytext
import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "gallery"
GALLERY = "gallery/"
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s#:]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"^!\[.*?\]\((.+?)\)\n", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in _pages().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = _study(text) if source.endswith(".html") else text
        files.append(File.generated(config, page, content=_moved_links(text, source, page)))
    for page in _listed(config, "Papers"):
        if page not in _pages().values() and not (ROOT / "docs" / page).exists():
            name = Path(page).stem
            text = f"# {name}\n\nNot computed yet; `gflow reproduce {name} --quick --out docs/papers` writes it.\n"
            files.append(File.generated(config, page, content=text))
    cards = []
    for path in [ROOT / "notebooks" / f"{Path(page).stem}.py" for page in _listed(config, "Gallery")]:
        if path.stem == "index":
            continue
        text, pictures = _notebook(path, bool(config.extra["execute"]))
        for name, picture in pictures.items():
            files.append(File.generated(config, GALLERY + name, content=picture))
        files.append(File.generated(config, f"{GALLERY}{path.stem}.md", content=text))
        cards.append(_card(path.stem, text))
    files.append(File.generated(config, GALLERY + "index.md", content=_GALLERY + "\n".join(cards) + "\n</div>\n"))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    source = f"docs/{page.file.src_uri}"
    return _moved_links(markdown, source, page.file.src_uri) if (ROOT / source).exists() else markdown


def on_page_content(content: str, **_) -> str:
    inline = lambda found: convert(html.unescape(found[1]), display="inline")
    block = lambda found: convert(html.unescape(found[1]), display="block")
    content = re.sub(r'<span class="arithmatex">\\\((.+?)\\\)</span>', inline, content, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.+?)\\\]</div>', block, content, flags=re.DOTALL)


def _pages() -> dict[str, str]:
    """Where in the repository a page of the site comes from, for those that are not where they are in docs."""
    pages = {
        "README.md": "index.md",
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "benchmarks/README.md": "benchmarks/index.md",
    }
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        pages[f"benchmarks/results/{path.name}"] = f"benchmarks/{path.name}"
    for path in sorted((ROOT / "docs" / "papers").glob("*.html")):
        pages[f"docs/papers/{path.name}"] = f"papers/{path.stem}.md"
    return pages


def _moved_links(text: str, source: str, page: str) -> str:
    """Links of a file of the repository as links of the page that is made from it."""
    pages = _pages()

    def moved(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
        if target == "notebooks":
            there = GALLERY + "index.md"
        elif target.startswith("notebooks/"):
            there = f"{GALLERY}{Path(target).stem}.md"
        else:
            there = pages.get(target) or target.removeprefix("docs/")
            there = there.replace("benchmarks/results/", "benchmarks/")
        name = found[1].replace("[docs/", "[").replace(".md]", "]")
        return f"{name}({posixpath.relpath(there, posixpath.dirname(page) or '.')}{found[3] or ''})"

    return LINK.sub(moved, text)


def _study(page: str) -> str:
    """The body of a page of `gflow reproduce`, with headings that the table of contents sees."""
    body = page.partition("<body>")[2].partition("</body>")[0]
    heading = lambda found: f"\n{'#' * int(found[1])} {html.unescape(found[2])}\n\n"
    body = re.sub(r'<table [^>]*class="dataframe">', "<table>", body)
    return re.sub(r"<h([12])>(.*?)</h\1>\n?", heading, body)


def _listed(config: MkDocsConfig, section: str) -> list[str]:
    """The pages of a section of the navigation."""
    entries = next(entry[section] for entry in config.nav or [] if section in entry)
    return [page for entry in entries for page in (entry.values() if isinstance(entry, dict) else [entry])]


def _notebook(path: Path, execute: bool) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook in Markdown, its first picture first, and its pictures."""
    notebook = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    if execute:
        notebook = _executed(path, notebook)
    exporter = MarkdownExporter()
    display = ["image/png", "text/plain"]
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.source = cell.source.replace("  # noqa: E402", "")
        if cell.cell_type == "code":
            # What goes to stderr names files of this machine; a cell that fails ends the build.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            for kind in set(output.get("data", {})) - set(display):
                del output.data[kind]
    text, resources = exporter.from_notebook_node(notebook, {"unique_key": path.stem, "output_files_dir": ""})
    pictures = {Path(name).name: data for name, data in resources.get("outputs", {}).items()}
    title, _, rest = text.lstrip().partition("\n")
    first = PICTURE.search(rest)
    if first:
        rest = f"\n![{title.lstrip('# ')}]({first[1]})\n" + rest[: first.start()] + rest[first.end() :]
    elif not execute:
        rest = "\n!!! note\n    This build shows the code only; `make docs` runs it.\n" + rest
    return f"{title}\n{rest}\n\nFrom `notebooks/{path.name}`.\n", pictures


def _executed(path: Path, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    files = [path, *sorted((ROOT / "gflow").rglob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    kept = CACHE / f"{path.stem}-{digest}.ipynb"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        retina = nbformat.v4.new_code_cell("%config InlineBackend.figure_formats = ['retina']")
        trial = nbformat.v4.new_notebook(cells=[retina, *notebook.cells])
        client = NotebookClient(trial, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
        bar = tqdm(total=len(trial.cells), desc=f"notebooks/{path.name}", unit=" cells")
        client.on_cell_executed = lambda **_: bar.update()
        with bar:
            environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
            client.execute(env=environment | {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"})
        notebook = nbformat.v4.new_notebook(cells=trial.cells[1:])
        for old in CACHE.glob(f"{path.stem}-*.ipynb"):
            old.unlink()
        nbformat.write(notebook, kept)
    return nbformat.read(kept, as_version=4)


_GALLERY = """# Gallery

Each page is a notebook of about a minute or less, run when this site was built: plain Python in percent format, which
`python notebooks/NAME.py` runs as well.

<div class="gallery" markdown>
"""


def _card(stem: str, text: str) -> str:
    title = text.partition("\n")[0].lstrip("# ")
    picture = PICTURE.search(text)
    image = f"![{title}]({picture[1]})" if picture else ""
    return f'<div markdown>\n\n[{image}\n{title}]({stem}.md)\n\n</div>'
