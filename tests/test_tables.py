"""Tables as plain text."""

from alexnet_jax.tables import aligned, heading_line, row_line


def test_columns_stand_below_each_other():
    rows = [("", "top-1", "note"), ("seed=0", "1.03 %", ""), ("seed=10", "12.50 %", "diverged")]
    assert aligned(rows).splitlines() == [
        "         top-1    note",
        "seed=0   1.03 %",
        "seed=10  12.50 %  diverged",
    ]
    assert aligned(rows, "<>", gap=1).splitlines() == [
        "          top-1     note",
        "seed=0   1.03 %",
        "seed=10 12.50 % diverged",
    ]
    assert aligned(rows, "<><").splitlines()[2] == "seed=10  12.50 %  diverged"
    assert aligned([]) == ""


def test_rows_that_come_one_by_one_have_the_width_of_their_column():
    columns = {"side": "<6", "images/s": "10,.1f", "of peak": "8.0%"}
    assert heading_line(columns) == "side      images/s   of peak"
    assert row_line(columns, {"side": "ours", "images_s": 1234.5, "of_peak": 0.5}) == "ours       1,234.5       50%"
    assert row_line(columns, {"side": "theirs", "images_s": "n/a"}) == "theirs         n/a         -"
