"""The cleaners of code on a few invented lines: what they drop, what they keep."""

from __future__ import annotations

import pytest

from nanogpt.text.clean_code import clean_cpp, clean_python, tidy_code


def test_tidy_is_idempotent() -> None:
    code = tidy_code("\n\nif cafe\u0301: \r\n\tx\f\n\n\n\n\n\ny\n\n")
    assert code == "if caf\u00e9:\n    x\n\n\ny\n" == tidy_code(code)
    assert tidy_code(" \n\f") == ""


MODULE = '''#!/bin/sh
# -*- coding: utf-8 -*-

# Copyright 1999 A. Nobody.
#
# Use it.

"""A kettle.

It boils.
"""
# hot
class Kettle:
    """Boils."""

    tea = """not
    a docstring"""

    def é(self): "beside code"
    async def pour(self):
        'pours'


if hot:
    def f():
        r"""f"""
        "not the first"
'''
CODE = '''# hot
class Kettle:
    tea = """not
    a docstring"""

    def é(self): "beside code"
    async def pour(self):
        pass


if hot:
    def f():
        "not the first"
'''


def test_python_loses_docstrings_and_notes_of_copyright() -> None:
    assert clean_python(MODULE) == CODE == clean_python(MODULE.replace("\n", "\r\n"))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_headers_lose_notes_of_copyright_and_the_guard_of_the_build(ending: str) -> None:
    body = "#pragma once\n\n// Pours.\nint pour();\n\n/* tea */\n#else\n\n#endif\n"
    licensed = "/* Copyright Nobody.\n * All rights reserved. */\n" + body + "// Licensed to\n// all.\n"
    guarded = ("#if !defined(TORCH_STABLE_ONLY) && !defined(X)\n" + licensed +
               '\n#else\n#error "This file should not be included."\n#endif  // !defined(TORCH_STABLE_ONLY)\n')
    assert clean_cpp(guarded.replace("\n", ending)) == clean_cpp(body) == body
