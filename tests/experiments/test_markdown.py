"""What a table says of its results, and where it is written."""

from antvisionps.experiments.markdown import Result, replace_section, table
from antvisionps.experiments.tables import Figures, Row


def row(name, system="e_ups", report=None):
    return Row(name, name, ("e_ups",), (), system, report)


def summary(**pq_of_system):
    """System → (PQ, PQTh, PQSt)."""
    groups = ("All", "Things", "Stuff")
    return {
        system: {group: {"PQ": pq} for group, pq in zip(groups, values, strict=True)}
        for system, values in pq_of_system.items()
    }


def test_over_several_seeds_a_row_has_mean_and_sample_deviation():
    vanilla = Result(row("vanilla"), "ab", [summary(e_ups=(10.0, 1.0, 20.0)), summary(e_ups=(13.0, 2.0, 20.0))])
    half = Result(row("+ BFP"), "cd", [None, summary(e_ups=(11.0, None, 1.0))])
    none = Result(row("+ LSH"), "ef", [None, None])
    assert table([vanilla, half, none]).splitlines() == [
        "|  | PQ | PQTh | PQSt | PQ of each seed |",
        "| --- | --- | --- | --- | --- |",
        "| vanilla | 11.50 ± 2.12 | 1.50 ± 0.71 | 20.00 ± 0.00 | 10.0, 13.0 |",
        "| + BFP | 11.00 | 0.00 | 1.00 | –, 11.0 |",
        "| + LSH | not run yet | – | – | –, – |",
    ]


def test_the_gain_is_over_the_better_end_of_the_same_seed():
    seeds = [
        summary(a=(10.0, 0.0, 0.0), b=(12.0, 0.0, 0.0), fusion=(15.0, 0.0, 0.0)),
        summary(a=(20.0, 0.0, 0.0), b=(16.0, 0.0, 0.0), fusion=(19.0, 0.0, 0.0)),
    ]
    lines = table([Result(row(system, system), "xy", seeds) for system in ("a", "fusion")]).splitlines()
    assert lines[0].endswith("| gain over the better end |")
    assert lines[2].endswith("| – |")
    assert lines[3].endswith("| +1.00 ± 2.83 |")


def test_ours_stands_beside_the_reports_with_the_difference_of_what_both_have():
    ours = [summary(e_ups=(45.0, 58.25, 30.0))]
    rows = [row("all", report=Figures(46.8, 57.2, 31.0)), row("PQ", report=Figures(44.0)), row("none")]
    assert [
        line.split(" | ")[4:] for line in table([Result(row, ["name"], ours) for row in rows]).splitlines()[2:]
    ] == [
        ["46.8 (57.2 / 31.0)", "−1.8 (+1.0 / −1.0)", "`name` |"],
        ["44.0", "+1.0", "`name` |"],
        ["–", "–", "`name` |"],
    ]
    not_run = table([Result(rows[0], ["name"], [None])])
    assert "| not run yet | – | – | 46.8 (57.2 / 31.0) | – | `name` |" in not_run


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "docs" / "ablations.md"
    replace_section(path, "A (x)", "first")
    replace_section(path, "B", "second")
    replace_section(path, "A (x)", "third")
    assert path.read_text() == "# Ablations\n\n## A (x)\n\nthird\n\n## B\n\nsecond\n"
    replace_section(path, "B", "fourth")
    assert path.read_text() == "# Ablations\n\n## A (x)\n\nthird\n\n## B\n\nfourth\n"
