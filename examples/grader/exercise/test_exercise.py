"""The exercise: `submission.fibonacci(n)` is the nth Fibonacci number."""

import submission


def test_the_first_ones():
    assert [submission.fibonacci(n) for n in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]


def test_a_large_one():
    assert submission.fibonacci(90) == 2880067194370816120
