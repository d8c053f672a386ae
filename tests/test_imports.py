"""Imports point one way: ops <- nn <- models <- pipelines <- commands <- cli; io stands apart, train above models."""

import ast
from pathlib import Path

import msr

# What evaluation and training share.
SHARED = {"metrics", "camera", "degradation", "burst_simulation"}

# What each part may import of msr, besides itself and the errors.
ALLOWED = {
    "ops": {"_extension"},
    "nn": {"ops"},
    "models": {"ops", "nn"},
    "io": set(),
    "metrics": {"nn"},
    "camera": set(),
    "degradation": {"ops", "metrics", "io"},
    "burst_simulation": {"camera", "metrics", "degradation"},
    "pipelines": {"ops", "nn", "models", "io", *SHARED, "_extension"},
    "train": {"ops", "nn", "models", "pipelines", "io", *SHARED},
    "commands": {"ops", "nn", "models", "pipelines", "io", *SHARED, "train", "_extension"},
    "cli": {"commands", "pipelines"},
    "errors": set(),
    "_extension": set(),
}
ROOT = Path(msr.__file__).parent


def imported_parts(path: Path) -> set[str]:
    """Return the parts of msr that a file imports, at any depth of its code."""
    parts: set[str] = set()
    package = ["msr", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "msr" else [stem]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("msr.")}
    return parts


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):  # the public face: anything but what trains
            allowed = set(ALLOWED) - {"train"}
        else:
            assert part in ALLOWED, f"{path}: a new part of msr; say in this test what it may import"
            allowed = ALLOWED[part] | {part, "errors"}
        found = {name for name in imported_parts(path) if name in ALLOWED}
        wrong += [f"{path.relative_to(ROOT)} imports msr.{name}" for name in sorted(found - allowed)]
    assert not wrong, "\n".join(wrong)


def test_ops_import_torch_only() -> None:
    for path in sorted((ROOT / "ops").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            outside = {n.split(".")[0] for n in names} & {"numpy", "cv2", "av", "rawpy", "safetensors", "rich"}
            assert not outside, f"{path} imports {outside}"
