"""Success in every one of several tries: pass^k, from the repeats of a case.

It falls with k as far as a version is erratic: two that are right in half of their tries may be right on half of the cases always
(pass^2 .5), or on all cases half of the time (.25).
"""

from __future__ import annotations

from math import comb


def all_of(k: int, *, right: int, of: int) -> float:
    """Return the chance that `k` tries are all right, as it is estimated without bias from `of` tries of which so many were right.

    That is the share of the ways to draw k of these tries in which each is right: C(right, k) / C(of, k).

    Raises:
        ValueError: fewer tries than `k`.
    Source: Yao et al. (2024), tau-bench, arXiv:2406.12045, pass^k.
    """
    if not 1 <= k <= of or not 0 <= right <= of:
        raise ValueError(f"{right} right of {of} tries say nothing about {k} tries")
    return comb(right, k) / comb(of, k)
