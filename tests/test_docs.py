"""The README is true: its file tree, its commands; every module imports; the notebook runs."""

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import mmfuser_jax
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
MODULES = sorted(info.name for info in pkgutil.walk_packages(mmfuser_jax.__path__, "mmfuser_jax."))


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name):
    assert importlib.import_module(name).__doc__


LAYERS = (
    {"types", "cli", "files", "processes", "hub", "layout", "compilation", "xla_flags", "hardware", "locks"},
    {"sharding", "distributed", "checksums"},
    {"ops", "checkpoint"},
    {"models", "data"},
    {"presets", "model_folder", "prepare", "synthetic"},
    {"generate", "train"},
    {"convert"},
    {"facade"},
    {"evaluate", "serve", "mminstruct"},
    {"aot"},
    {"jobs"},
    {"bench"},
)


def layer(module):
    return next((level for level, names in enumerate(LAYERS) if module.split(".")[1] in names), None)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_layers_below(name):
    spec = importlib.util.find_spec(name)
    assert layer(name) is not None, f"{name} has no layer"
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmfuser_jax"):
            modules = [node.module] if "." in node.module else [f"mmfuser_jax.{alias.name}" for alias in node.names]
            for module in modules:
                same = module.split(".")[1] == name.split(".")[1]
                assert same or layer(module) < layer(name), f"{name} imports {module}"


def tree_entries():
    """Paths of the README's file tree, from its indentation."""
    block = re.search(r"## Files\n+```\n(.*?)```", README, re.DOTALL)[1]
    folders: list[str] = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        yield "/".join(folders), name.endswith("/"), len(line.split(maxsplit=1)) == 2


def test_file_tree_is_complete_and_explained():
    entries = list(tree_entries())
    assert all(explained for _, _, explained in entries)
    listed = {path for path, is_folder, _ in entries if not is_folder}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    actual = {
        path
        for path in tracked.stdout.split()
        if path.startswith(("mmfuser_jax/", "configs/", "launch/", "notebooks/"))
        and not path.endswith("__init__.py")
        and not re.search("/(seeds|prompts|page)/", path)  # one line for all of them
    }
    assert {path for path in listed if "/" in path} == actual
    assert all((ROOT / path).exists() for path, _, _ in entries)


def test_commands_name_scripts_and_flags_that_exist():
    commands = re.findall(r"python (launch/\w+\.py)((?: +(?:\\\n +)?[^\n`|]*)?)", README)
    assert len(commands) >= 5
    for script, rest in commands:
        source = (ROOT / script).read_text()
        for flag in re.findall(r"--(\w+)", re.sub(r"--config\.\S+", "", rest)):
            assert f'"{flag}"' in source, f"{script} has no flag --{flag}"
        for config in re.findall(r"--config=(configs/\w+\.py)", rest):
            assert (ROOT / config).exists()


def test_pictures_of_the_readme_exist():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert len(pictures) >= 3
    assert all((ROOT / picture).exists() for picture in pictures)
    assert not re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE), "a placeholder was left"


def definitions():
    """(where, node) of every function and class at the top of a file or a class."""
    for folder in ("mmfuser_jax", "configs", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
                for node in scope.body:
                    if isinstance(node, ast.ClassDef | ast.FunctionDef):
                        yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_every_public_function_and_class_has_a_docstring():
    missing = [
        where
        for where, node in definitions()
        if not node.name.startswith("_") and node.name not in ("setup", "close") and not ast.get_docstring(node)
    ]
    assert not missing


def test_files_and_functions_stay_small():
    for where, node in definitions():
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 90, where
    for path in ROOT.glob("mmfuser_jax/**/*.py"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_tour_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSER_MODEL", "")
    monkeypatch.setenv("XLA_FLAGS", "")
    notebook = nbformat.read(ROOT / "notebooks" / "tour.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "logits [B, T, V]" in text
    assert "answer:" in text
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 5


def test_tests_that_the_engine_s_page_names_are_there():
    named = re.findall(r"tests/(\w+\.py)::(\w+)", (ROOT / "docs" / "engine.md").read_text())
    assert len(named) >= 30
    missing = [f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing
