import contextlib
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.errors import InputError
from poclab.points import grid, holds, sample


def drawn(count, parameters, **more):
    return sample({"run_cap": count, "parameters": parameters, **more}, {}, where="sweep.yaml")


class TestGrid:
    def test_is_every_point_in_the_order_of_the_file(self):
        """The last parameter changes fastest; what is fixed is part of each."""
        data = {"parameters": {"a": {"values": [1, 2]}, "b": {"values": ["x", "y"]}}}

        assert grid(data, {"c": 0}, where="sweep.yaml") == [{"c": 0, "a": a, "b": b} for a in (1, 2) for b in ("x", "y")]

    def test_moves_together_what_is_zipped(self):
        """Sizes go with their overlaps: 2 x 3 points, not 2 x 3 x 3."""
        data = {
            "parameters": {"size": {"values": [100, 200, 400]}, "kind": {"values": ["a", "b"]}, "overlap": {"values": [0, 20, 50]}},
            "zip": [["size", "overlap"]],
        }

        assert grid(data, {}, where="sweep.yaml") == [
            {"size": size, "overlap": overlap, "kind": kind} for size, overlap in ((100, 0), (200, 20), (400, 50)) for kind in ("a", "b")
        ]

    def test_of_nothing_has_no_point(self):
        """A file with `include` alone."""
        assert grid({}, {"c": 0}, where="sweep.yaml") == []

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ([["a", "b"]], "zip: a has 2 values, b has 3 values\n.*same number"),
            ([["a", "bb"]], "zip: unknown parameter 'bb'\n.*did you mean 'b'"),
            ([["a", "c"], ["c", "a"]], "zip: a stands there twice"),
            ([["a", "a"]], "zip: a stands there twice"),
            ([["a"]], "zip: found"),
            (["a", "c"], "zip: found"),
            ([[["a"], "b"]], "zip: unknown parameter"),
            ("a", "zip: found 'a'"),
            ([["a", "r"]], "zip: r is a range"),
        ],
    )
    def test_refuses_a_zip_that_cannot_be(self, groups, message):
        """With what was found and what to write."""
        parameters = {"a": {"values": [1, 2]}, "b": {"values": [1, 2, 3]}, "c": {"values": [1, 2]}, "r": {"min": 0, "max": 1}}
        with pytest.raises(InputError, match=f"^sweep.yaml: {message}"):
            grid({"parameters": parameters, "zip": groups}, {}, where="sweep.yaml")

    def test_refuses_a_range(self):
        """It has no points by itself."""
        with pytest.raises(InputError, match="parameters.a is a range.*\n.*method: random"):
            grid({"parameters": {"a": {"min": 0, "max": 1}}}, {}, where="sweep.yaml")


class TestSample:
    def test_is_as_many_different_points_as_asked_and_the_same_for_the_same_seed(self):
        """Another seed draws others: of 20 choose 10 = 184,756 samples, three seeds would agree by accident once in 10^10."""
        parameters = {"a": {"values": list(range(20))}}
        samples = [drawn(10, parameters, seed=seed) for seed in (0, 1, 2)]

        assert drawn(10, parameters) == drawn(10, parameters, seed=0) == samples[0]
        assert [len({one["a"] for one in points}) for points in samples] == [10] * 3
        assert samples[0] != samples[1] != samples[2]

    def test_takes_all_points_that_hold_where_there_are_fewer(self):
        """Three of ten are above 6."""
        found = drawn(8, {"a": {"values": list(range(10))}}, where=["a > 6"])

        assert sorted(one["a"] for one in found) == [7, 8, 9]

    def test_of_a_range_takes_whole_numbers_between_whole_ones_and_others_between_others(self):
        """Both edges may be met."""
        whole, other = drawn(3, {"a": {"min": 1, "max": 3}}), drawn(50, {"a": {"min": 0.5, "max": 3}})

        assert sorted(one["a"] for one in whole) == [1, 2, 3]
        assert len(other) == 50 and all(isinstance(one["a"], float) and 0.5 <= one["a"] <= 3 for one in other)

    def test_of_a_range_is_even_or_even_in_the_logarithm(self):
        """Of 3,000 draws between 1 and 10,000, a quarter each is below 10, 100 and 1,000, within 5 standard errors (0.04); evenly, 0.1% is."""
        draws = [drawn(1, {"a": {"min": 1.0, "max": 1e4, **more}}, seed=seed)[0]["a"] for more in (
            {"distribution": "log_uniform_values"}, {}) for seed in range(3000)]  # fmt: skip
        decades = Counter(int(math.log10(one)) for one in draws[:3000])

        assert all(abs(decades[decade] / 3000 - 0.25) < 0.04 for decade in range(4))
        assert sum(one < 10 for one in draws[3000:]) / 3000 < 0.005

    def test_of_a_range_with_few_points_that_hold_ends(self):
        """Nobody knows how many there are: it draws for a while, and takes what it found."""
        assert drawn(5, {"a": {"min": 0.0, "max": 1.0}}, where=["a > 2"]) == []

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"min": 1}, "found {'min': 1}"),
            ({"min": 2, "max": 1}, "found"),
            ({"min": True, "max": 2}, "found"),
            ({"min": 0, "max": float("inf")}, "found"),
            ({"min": "a", "max": "b"}, "found"),
            ({"min": 0, "max": 1, "values": [1]}, "found"),
            ({"min": 0, "max": 1, "distribution": "normal"}, "unknown distribution 'normal'"),
            ({"min": 0, "max": 1, "distribution": ["uniform"]}, "unknown distribution"),
            ({"min": 0, "max": 1, "distribution": "log_uniform_values"}, "a logarithm needs more than 0, found min 0"),
        ],
    )
    def test_refuses_a_range_that_is_none(self, entry, message):
        """With what was found and what to write."""
        with pytest.raises(InputError, match=f"^sweep.yaml: parameters.a: {message}"):
            drawn(2, {"a": entry})

    @pytest.mark.parametrize(("count", "seed"), [(0, 0), (True, 0), (2.0, 0), ("3", 0), (10_001, 0), (3, "a"), (3, 1.5)])
    def test_refuses_a_number_of_points_or_a_seed_that_is_none(self, count, seed):
        """A sample has at least one point."""
        with pytest.raises(InputError, match="^sweep.yaml: (run_cap|seed) is"):
            drawn(count, {"a": {"values": [1]}}, seed=seed)


POINT = {"chunk_size": 400, "overlap": 50, "retrieval": "bm25", "big": True}


class TestWhere:
    @pytest.mark.parametrize(
        ("expression", "expected"),
        [
            ("overlap * 4 <= chunk_size", True),
            ("overlap * 9 <= chunk_size", False),
            ("retrieval in ['dense', 'hybrid']", False),
            ("retrieval == 'bm25' or overlap == 0", True),
            ("not big", False),
            ("100 < chunk_size < 500", True),
            ("chunk_size % 100 == 0 and chunk_size // 100 == 4 and -overlap < 0", True),
            ("overlap is not None", True),
        ],
    )
    def test_is_python_over_parameters(self, expression, expected):
        """Comparisons, arithmetic, and, or, not, in."""
        assert holds(expression, POINT, where="sweep.yaml") is expected

    @pytest.mark.parametrize(
        "expression",
        [
            "__import__('os').system('touch owned')",
            "().__class__.__base__.__subclasses__()",
            "retrieval.upper() == 'BM25'",
            "retrieval.__class__",
            "open('/etc/passwd')",
            "[x for x in (1, 2)]",
            "(lambda: 1)()",
            "(chunk_size := 7)",
            "POINT['overlap']",
            "f'{chunk_size}' == '400'",
            "chunk_size ** 999999999",
            "chunk_size << 999999999",
            "1 if big else 0",
            "await big",
            "{1, 2}",
            "*big",
            "chunk_size is 400",
            "chunk_size is not overlap",
            "None is not overlap is chunk_size",
        ],
    )
    def test_refuses_everything_else(self, expression):
        """No call, attribute, item, comprehension or power: a sweep file runs no code. No `is` but None: 400 is never `is 400`."""
        with pytest.raises(InputError, match="^sweep.yaml: where: "):
            holds(expression, POINT, where="sweep.yaml")

    @pytest.mark.parametrize("name", ["__builtins__", "print", "overlapp", "POINT"])
    def test_knows_only_the_parameters_of_the_point(self, name):
        """Not even Python's own names."""
        with pytest.raises(InputError, match=f"unknown parameter '{name}'"):
            holds(name, POINT, where="sweep.yaml")

    @pytest.mark.parametrize(
        "expression",
        [
            "retrieval < chunk_size",
            "chunk_size / 0 > 1",
            "'%z' % chunk_size == 'x'",
            "1e308 * 10 // 1 == 0 // 0",
            "'a' * 99999999999999 == 'b'",
            "big in chunk_size",
        ],
    )
    def test_that_cannot_be_computed_is_an_input_error(self, expression):
        """No traceback for a wrong type or a division by zero."""
        with pytest.raises(InputError, match="cannot be computed"):
            holds(expression, POINT, where="sweep.yaml")

    @pytest.mark.parametrize("expression", ["overlap <=", "", "a b", "x = 1", "import os", "\0", "(" * 500, "1" + "+1" * 100_000])
    def test_that_is_no_expression_is_an_input_error(self, expression):
        """Half a line, a statement, a null byte, far too many brackets."""
        with pytest.raises(InputError, match="where"):
            holds(expression, POINT, where="sweep.yaml")

    @given(st.text(max_size=60))
    def test_any_text_is_an_answer_or_an_input_error(self, expression):
        """Whatever is typed, nothing else comes out."""
        with contextlib.suppress(InputError):
            assert holds(expression, POINT, where="sweep.yaml") in (True, False)
