"""The descriptions of runs: text stays text, links hold on any server, and a description is never cut."""

from poclab.tracking import notes, routes


def test_what_somebody_else_wrote_is_never_markup():
    """Neither HTML, nor Markdown's images, links, code and tables, nor an address that becomes a link by itself; control characters show."""
    hostile = "<b onclick=x>&lt; ![x](http://evil.example) `a` |b| **c**\n# d www.evil.example"

    assert notes.plain(hostile) == (
        "&lt;b onclick=x&gt;&amp;lt; \\!\\[x\\]\\(http&#58;//evil.example\\) \\`a\\` \\|b\\| \\*\\*c\\*\\*\\\\n\\# d &#119;ww.evil.example"
    )


def test_a_link_shows_text_and_leads_into_the_same_ui():
    """Its address begins with `#`: the page may be served anywhere."""
    assert notes.link("a]b", routes.run("1", "f" * 32)) == f"[a\\]b](#/experiments/1/runs/{'f' * 32})"


def test_a_long_table_loses_its_last_rows():
    """MLflow would cut it within a row, at 8,000 characters of the whole."""
    table = notes.table([{"trial": number, "name": "x" * 100} for number in range(200)])

    assert len(table) < 6100
    assert table.startswith("| trial | name |\n|---|---|\n| 0 | xxx")
    assert table.endswith(f"\n\n{200 - table.count('xxx |')} more are not shown")
