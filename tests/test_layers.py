"""The import layers of the architecture hold, and the light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "nncodec"
LAYERS = {
    "errors": 0, "config": 0, "memory": 0, "polar": 0, "around": 0,
    "atomic": 1, "container": 1, "picture": 1, "png": 1, "wide": 1, "metadata": 1, "rows": 1,
    "tiling": 1, "quadtree": 1, "freqs": 1, "hiding": 1, "rangecoder": 1, "intnet": 1, "metrics": 1, "postfilter": 1,
    "nets": 2, "entropy": 2, "weights": 2, "objective": 3, "structural": 3,
    "alphapng": 1, "partial": 2, "effort": 3, "refine": 3, "encoding": 3, "codec": 3, "decoding": 3,
    "denoising": 3, "rate": 3,
    "pillow": 4, "train": 4, "bench": 4, "batch": 4, "options": 5, "inputs": 5, "facts": 5, "analysis": 5,
    "cli": 5, "__init__": 4, "__main__": 6,
}  # fmt: skip
THIRD_PARTY = {
    "errors": set(), "config": set(), "memory": set(), "atomic": set(), "container": set(), "quadtree": set(),
    "tiling": {"numpy"}, "polar": {"numpy"}, "around": {"numpy"},
    "picture": {"PIL", "numpy"}, "png": {"numpy"}, "wide": {"PIL", "numpy"}, "metadata": {"PIL"},
    "rows": {"numpy"}, "freqs": {"numpy"}, "hiding": {"numpy"}, "rangecoder": {"numpy", "constriction"},
    "intnet": {"torch"},
}  # fmt: skip


def module_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it, but for type checking alone."""
    tree = ast.parse(path.read_text())
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in checking:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    for name in imports(path):
        if not name.startswith("nncodec"):
            continue
        parts = name.split(".")
        target = parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"
        if target in (module, "__init__"):
            continue
        assert LAYERS[target] <= LAYERS[module], f"{module} imports {target}"
        assert target != "cli" or module == "__main__"
        assert module not in ("codec", "entropy", "weights") or target not in ("train", "bench")


@pytest.mark.parametrize("module", sorted(THIRD_PARTY))
def test_low_layers_need_few_packages(module: str) -> None:
    heavy = {"PIL", "numpy", "torch", "constriction", "safetensors", "tqdm", "click", "matplotlib"}
    used = {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")} & heavy
    assert used <= THIRD_PARTY[module]


def test_only_rangecoder_uses_constriction() -> None:
    users = {module_of(p) for p in FILES if any(n.split(".")[0] == "constriction" for n in imports(p))}
    assert users == {"rangecoder"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info", "--help"], ["verify", "--help"], ["models"]])
def test_light_commands_do_not_import_torch(arguments: list[str], tiny_path: Path) -> None:
    code = (
        "import sys\nfrom nncodec.cli import main\n"
        f"try:\n main({arguments!r})\nexcept SystemExit as e:\n assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import nncodec, sys; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
