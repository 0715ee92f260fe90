from p2ch13.util.progress import byte_progress_bar, progress_bar


def test_progress_bar_counts_up(capsys):
    with progress_bar(4, "Caching", "scan") as bar:
        bar.update(3)
        assert (bar.n, bar.total) == (3, 4)
    assert "Caching" in capsys.readouterr().err
    with progress_bar(4, "Caching", "scan", is_shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_bytes_already_done_count_as_progress(capsys):
    with byte_progress_bar(3_000_000, "a.zip", 1_000_000) as bar:
        assert bar.n == 1_000_000
        bar.update(2_000_000)
    assert "a.zip: 100%" in capsys.readouterr().err
    assert "3.00M/3.00M" in str(bar)


def test_a_log_file_gets_lines(capsys):
    """A terminal's bar is drawn over the earlier one, which in a file is one line of all."""
    with progress_bar(4, "Caching", "scan") as bar:
        bar.update(4)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Caching:   0%")
    assert last.startswith("Caching: 100%")


def test_what_an_earlier_run_did_does_not_count_toward_the_rate(capsys):
    with progress_bar(1000, "Training", "sample", done=900) as bar:
        assert (bar.n, bar.initial) == (900, 900)
        bar.start_t -= 10  # ten seconds ago
        bar.update(50)
        assert bar.format_dict["n"] - bar.format_dict["initial"] == 50
        assert " 5.0" in str(bar) or " 4.9" in str(bar)  # samples a second
