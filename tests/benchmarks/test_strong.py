from benchmarks.strong import break_even


def test_compiling_pays_from_so_many_samples_on():
    """50 s more for the first epoch; a sample takes 10 ms instead of 20 ms."""
    rates = {"eager loop": 50.0, "compiled loop": 100.0, "eager seconds": 6.0, "compiled seconds": 56.0}
    assert break_even(rates) == 5000
    assert break_even({**rates, "compiled loop": 49.0}) is None
