"""docs/ops.md says what the docstrings say, and examples print what they say."""

import doctest
import importlib.util
import inspect
from pathlib import Path

import msr.camera
import msr.ops

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_the_ops_is_that_of_the_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("make_ops", DOCS / "make_ops.py")
    assert spec is not None
    assert spec.loader is not None
    make_ops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_ops)
    page = (DOCS / "ops.md").read_text()
    for name in msr.ops.__all__:
        if f"{name}_reference" in msr.ops.__all__:
            text = inspect.getdoc(getattr(msr.ops, name))
            assert text
            assert f"## {name}\n" in page
            assert make_ops.described(text) in page, f"{name}: run python docs/make_ops.py"


def test_the_examples_of_the_camera() -> None:
    assert doctest.testmod(msr.camera).failed == 0
