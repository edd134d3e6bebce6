"""What README and docs show runs as it stands, page by page, and names only what exists."""

import ast
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import gflow
from gflow import cli
from gflow.studies.report import STUDIES
from gflow.sweeps import config

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SET = r"(?:[A-Z0-9_]+=\S+ )*"
COMMAND = re.compile(
    rf"^ {{4}}({SET}(?:gflow|make|pip|\S*python) .*)$|`({SET}(?:gflow|make|python) [^`]+)`", re.MULTILINE
)
_OTHERS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md")
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (*_OTHERS, *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCKS = {page: FENCE.findall(text) for page, text in TEXTS.items()}
PAGES = {page: "\n".join(code for kind, code in blocks if kind == "python") for page, blocks in BLOCKS.items()}
# Public in their modules for other modules of gflow.
INSIDE = {"DualRows"}
# Told by the examples of what returns or raises them.
WITHOUT_EXAMPLE = {
    "gflow.kinks.Event",
    "gflow.limits.factorization.RankInterval",
    "gflow.SweepError",
    "gflow.SweepInterrupted",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, code in PAGES.items() if code])
def test_code_blocks_run(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(PAGES[page])
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_code_blocks_are_python_that_compiles_or_a_sweep_that_is_read(tmp_path):
    assert PAGES["README.md"].count("gflow.") > 3
    for page, blocks in BLOCKS.items():
        for kind, code in blocks:
            assert kind in ("python", "toml"), f"{page}: a block of {kind or 'no language'} is not tested"
            if kind == "python":
                compile(code, page, "exec")
            else:
                tomllib.loads(code)
                (tmp_path / "sweep.toml").write_text(code)
                config.read(tmp_path / "sweep.toml")


def test_commands_exist():
    """Commands in indented lines and inline: targets of make, arguments of gflow, extras, modules and files."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    commands = [(page, found) for page, text in TEXTS.items() for found in COMMAND.findall(FENCE.sub("", text))]
    assert len(commands) > 20
    for page, (line, inline) in commands:
        words = shlex.split(re.sub(r"\s[(#].*", "", line or inline).replace("\n", " "))
        program, *arguments = [word for word in words if not re.match(r"[A-Z0-9_]+=\S", word)]
        where = f"{page}: {line or inline}"
        if program == "make":
            assert set(arguments) <= targets, where
        elif program == "pip":
            named = re.findall(r"\[([\w,]+)\]", arguments[-1])
            assert set(",".join(named).split(",")) - {""} <= set(extras), where
        elif program == "gflow" and len(arguments) == 1:
            assert arguments[0] in ("transition", "reproduce", "sweep"), where
        elif program == "gflow":
            options = cli._parser().parse_args([argument.strip("[]") for argument in arguments])
            assert getattr(options, "study", "all") in {*STUDIES, "all", "NAME"}, where
        elif arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), where
        elif arguments[0] not in ("script.py", "notebooks/NAME.py"):
            assert (ROOT / arguments[0]).exists(), where


REFERENCE = re.compile(r"^::: (\S+)\n(?:    options:\n      members: \[(.*?)\]\n)?", re.MULTILINE)


def test_reference_lists_every_public_name():
    listed = set()
    for page, text in TEXTS.items():
        for name, members in REFERENCE.findall(text) if page.startswith("docs/api/") else []:
            listed |= {name, *(f"{name}.{member}" for member in members.split(", "))}
    missing = []
    for module in (gflow, gflow.models, gflow.limits, gflow.metrics, gflow.precise, gflow.kinks, gflow.losses):
        for name in dir(module):
            value = getattr(module, name)
            own = inspect.isfunction(value) or inspect.isclass(value)
            home = getattr(value, "__module__", "")
            if own and home.startswith("gflow") and not name.startswith("_") and name not in INSIDE:
                missing += [] if {f"{module.__name__}.{name}", f"{home}.{name}"} & listed else [name]
    assert not missing


def _public(name: str, members: str) -> dict[str, object]:
    """What a row of the reference shows: a function, a class, or these members of a module, by default all its own."""
    value = pkgutil.resolve_name(name)
    if not inspect.ismodule(value):
        return {name: value}
    own = [key for key, item in vars(value).items() if getattr(item, "__module__", None) == name and key[0] != "_"]
    return {f"{name}.{key}": getattr(value, key) for key in members.split(", ") if key} or {
        f"{name}.{key}": getattr(value, key) for key in own
    }


def test_every_name_of_the_reference_has_an_example():
    """An example in a docstring runs with the tests."""
    rows = [row for page in TEXTS if page.startswith("docs/api/") for row in REFERENCE.findall(TEXTS[page])]
    names = {key: value for name, members in rows for key, value in _public(name, members).items()}
    assert len(names) > 80
    bare = {key for key, value in names.items() if "!!! example" not in (value.__doc__ or "")}
    assert bare == WITHOUT_EXAMPLE


def test_what_the_type_checker_overlooks_is_listed():
    rows = re.findall(r"^\| `(gflow/\S+)` \| (.+?) \| (\d+) \|", TEXTS["docs/typing.md"], re.MULTILINE)
    listed = {(file, rules.strip("`")): int(count) for file, rules, count in rows}
    found = Counter()
    for path in sorted((ROOT / "gflow").rglob("*.py")):
        for rules in re.findall(r"# pyright: ignore(?:\[(.+?)\])?|# type: ignore", path.read_text()):
            found[path.relative_to(ROOT).as_posix(), rules or "all"] += 1
    assert listed == dict(found)


def test_site_lists_every_page():
    """The navigation names each page of docs, each study and each page that is made from another file."""
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.md")}
    assert pages | made | {f"papers/{name}.md" for name in STUDIES} <= listed


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_between_files_work_in_the_repository(page):
    """The site moves them; readers of the repository follow them as they are."""
    place = ROOT / page
    links = re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", place.read_text())
    assert not [link for link in links if not (place.parent / link).exists()]


def test_the_build_of_ci_counts_warnings():
    """`--quiet` would hide them from `--strict` as well."""
    builds = [line for line in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in line]
    assert len(builds) == 2
    assert all("--strict" in line and "--quiet" not in line and "-q" not in line.split() for line in builds)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_name_what_there_is(path):
    """Run they are by slow tests; a name that has moved shows here."""
    tree, names = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "gflow" in ast.unparse(node):
            exec(compile(ast.Module([node], []), str(path), "exec"), names)

    def meant(node):
        if isinstance(node, ast.Name):
            return names.get(node.id)
        owner = meant(node.value) if isinstance(node, ast.Attribute) else None
        return getattr(owner, node.attr) if inspect.ismodule(owner) else None

    for node in ast.walk(tree):
        meant(node)
