"""The documentation: pages in Markdown, and the site that is made of them.

    pages/        one file a page; every block of Python in them is run by the tests
    mkdocs.yml    the site: `python -m mkdocs build -f flexdsl/docs/mkdocs.yml`
    gallery       the page of variants, with pictures, made when the site is built

It lies inside the package so that the pages are shipped with the version that they describe, the
page of errors above all. Nothing of flexdsl imports it.
"""
