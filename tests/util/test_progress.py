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
