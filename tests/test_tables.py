from poclab.tables import frame, html_table, text_table


def test_a_frame_keeps_the_columns_of_every_row():
    """A column that only a later row has is there, after the others."""
    assert list(frame([{"b": 1}, {"a": 2, "b": 3}]).columns) == ["b", "a"]


def test_a_text_table_pads_and_escapes():
    """Columns line up; a cell stays on its line."""
    table = text_table(["name", "n"], [["a\nb\x1b[2J", 1], ["long name here", 22]])

    assert table.split("\n") == ["name            n", r"a\nb\x1b[2J     1", "long name here  22"]
    assert text_table(["name"], []) == "name"


def test_an_html_table_cuts_what_is_too_long():
    """A reply of 200,000 characters does not fill the notebook; the cell says how long it is."""
    page = html_table(["reply"], [["x" * 200_000]])

    assert len(page) < 2_000
    assert "(200000 characters)" in page
