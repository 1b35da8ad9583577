"""What the package promises as a package: names, stub, start-up."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tritlab
from tritlab import _native

STUB = ast.parse((Path(tritlab.__file__).parent / "_native.pyi").read_text())


def _public(names):
    return {name for name in names if not name.startswith("_")}


def _stub_members(body):
    names = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}


STUBBED = [
    "Activations",
    "Disassembly",
    "Explanation",
    "Imatrix",
    "Kernel",
    "Matrix",
    "Model",
    "Ternary",
    "TextStream",
    "Trace",
]


def test_stub_and_module_have_the_same_names():
    assert _public(dir(_native)) == _public(_stub_members(STUB.body))
    assert _native.__version__ == tritlab.__version__


@pytest.mark.parametrize("name", STUBBED)
def test_stub_and_class_have_the_same_members(name):
    cls = getattr(_native, name)
    assert _public(vars(cls)) == _public(_stub_members(CLASSES[name].body))


def test_stub_and_runtime_have_the_same_parameters():
    found = [(_native, node) for node in FUNCTIONS.values()]
    for name in STUBBED:
        found += [
            (getattr(_native, name), node)
            for node in CLASSES[name].body
            if isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and not any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list)
        ]
    for owner, node in found:
        keywords = [node.args.kwarg] if node.args.kwarg else []
        wanted = [a.arg for a in (*node.args.args, *node.args.kwonlyargs, *keywords)]
        got = list(inspect.signature(getattr(owner, node.name)).parameters)
        assert got == wanted, node.name


def test_stub_and_runtime_have_the_same_documentation():
    pairs = [(_native, node) for node in (*FUNCTIONS.values(), *CLASSES.values())]
    for name in STUBBED:
        members = (m for m in CLASSES[name].body if isinstance(m, ast.FunctionDef))
        pairs += [(getattr(_native, name), m) for m in members if not m.name.startswith("_")]
    for owner, node in pairs:
        assert inspect.getdoc(getattr(owner, node.name)) == ast.get_docstring(node), node.name


def test_errors_are_value_errors():
    for name, node in CLASSES.items():
        if name.endswith("Error"):
            error = getattr(_native, name)
            assert issubclass(error, ValueError)
            assert [b.__name__ for b in error.__bases__] == [b.id for b in node.bases]


def test_public_names_exist_and_have_docs():
    for name in tritlab.__all__:
        value = getattr(tritlab, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        tritlab.nothing  # noqa: B018


def _python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import tritlab; print(time.perf_counter() - t)"
    assert min(float(_python(code)) for _ in range(5)) < 0.150


def test_import_loads_no_heavy_module_and_starts_no_thread():
    code = (
        "import sys, threading, tritlab, os\n"
        "heavy = {'typer', 'rich', 'matplotlib', 'pandas', 'tqdm'} & set(sys.modules)\n"
        "tasks = len(os.listdir('/proc/self/task')) if os.path.isdir('/proc/self/task') else 1\n"
        "print(sorted(heavy), tasks)"
    )
    assert _python(code) == "[] 1"


def test_tables_have_the_stated_keys():
    from tritlab import _types

    for rows, shape in (
        (tritlab.formats(), _types.FormatInfo),
        (tritlab.backends(), _types.BackendInfo),
        ([_native.machine()], _types.MachineFacts),
    ):
        assert rows
        for row in rows:
            assert set(row) == set(shape.__annotations__)


def test_machine_is_measured():
    facts = tritlab.machine(measure=True)
    assert facts["read_bandwidth"] > 1e8
    assert facts["dot_peak"] > 1e8
    assert facts["cores"] >= 1
