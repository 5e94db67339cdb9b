"""The checks of the book: one module a chapter, one function a statement.

A function ``check_LABEL`` computes both sides of a statement by independent ways, asserts that they agree, and returns
the numbers that the page quotes. A function ``control_LABEL`` breaks one assumption of the statement, asserts that the
same comparison now fails, and returns by how much. Both run without arguments, on the page and in the tests.

``tools`` holds what several chapters need. A chapter's module has the name of the chapter, with underscores.
"""
