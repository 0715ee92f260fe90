import json
import math

from p2ch13.util.json_values import only_finite


def test_what_json_lacks_becomes_null():
    values = {"a": [1.5, math.nan, math.inf, {"b": -math.inf}], "c": "inf", "d": (3, math.nan)}
    assert only_finite(values) == {"a": [1.5, None, None, {"b": None}], "c": "inf", "d": [3, None]}
    assert json.loads(json.dumps(only_finite(values), allow_nan=False))["d"] == [3, None]
