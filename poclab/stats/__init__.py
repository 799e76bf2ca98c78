"""Statistics of a POC: two-sided, honest at 0 and 1, and aware of repeats and clusters.

    intervals   a mean, a quantile, a cost, each with its interval
    paired      whether two versions differ on the same cases, and what is left of that after many trials
    repeated    whether all of several tries succeed
    planning    how many cases it takes to tell, and what a number of cases can tell
    agreement   how far two labellers agree, of whom one may be a judge
    corrected   a judge's mean, corrected by what people say of a sample

Values are one per case: repeats are averaged before they come here. Nothing here knows a report.
"""

from poclab.stats.agreement import counted, kappa, kappa_cases, kappa_error, kappa_estimate, paired_kappa, recalls
from poclab.stats.corrected import corrected_mean
from poclab.stats.intervals import (
    Estimate,
    bca,
    cost_estimate,
    design_effect,
    edges,
    independent_difference,
    mean_estimate,
    quantile_estimate,
    t_quantile,
    wilson,
)
from poclab.stats.paired import Paired, compare_paired, holm, mcnemar, sign_flip
from poclab.stats.planning import (
    MOST,
    NONE,
    cases_for_quantile,
    cases_to_reach,
    cases_to_tell,
    cases_until,
    power_to_reach,
    power_to_tell,
    smallest_difference,
    smallest_share,
)
from poclab.stats.repeated import all_of

__all__ = [
    "MOST",
    "NONE",
    "Estimate",
    "Paired",
    "all_of",
    "bca",
    "cases_for_quantile",
    "cases_to_reach",
    "cases_to_tell",
    "cases_until",
    "compare_paired",
    "corrected_mean",
    "cost_estimate",
    "counted",
    "design_effect",
    "edges",
    "holm",
    "independent_difference",
    "kappa",
    "kappa_error",
    "kappa_cases",
    "kappa_estimate",
    "mcnemar",
    "mean_estimate",
    "paired_kappa",
    "power_to_reach",
    "power_to_tell",
    "quantile_estimate",
    "recalls",
    "sign_flip",
    "smallest_difference",
    "smallest_share",
    "t_quantile",
    "wilson",
]
