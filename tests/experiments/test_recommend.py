"""The recommendation on constructed results: what is chosen, and what the sentences say."""

from __future__ import annotations

import pytest

from tailwise.experiments import recommend as recommending
from tailwise.experiments.recommend import listed
from tests.experiments.given import comparison_of

GROUPS = ("total", "head", "medium", "tail")


def recommend(given):
    """The recommendation for partial results, as results.json has it."""
    found = recommending.recommend(comparison_of(given))
    return {"methods": list(found.methods), "text": list(found.text)}


def method(name, *, test=50.0, from_best=(0, 0, 0), validation=None, from_val=(0, 0, 0), **changes):
    """An entry with a mean mAP of the test, and differences from the best as (difference, low, high)."""

    def difference(values):
        return {group: dict(zip(("difference", "low", "high"), values, strict=True)) for group in GROUPS}

    entry = {
        "name": name,
        "chosen": None,
        "failed": None,
        "test": {
            "mean": dict.fromkeys(GROUPS, test),
            "std": dict.fromkeys(GROUPS, 0.4),
            "against_best": difference(from_best),
            "against_baseline": difference(changes.pop("from_baseline", (0, 0, 0))),
        },
        "validation": None
        if validation is None
        else {"mAP": dict.fromkeys(GROUPS, validation), "against_best": difference(from_val)},
    }
    return {**entry, **changes}


def results(*methods, test, validation=None, baseline=None, seeds=(0, 1)):
    return {
        "methods": list(methods),
        "best": {"test": test, "validation": validation},
        "data": {"train_split": "train", "test_split": "test"},
        "bootstrap": {"replicates": 100, "level": 0.95},
        "baseline": baseline,
        "seeds": list(seeds),
    }


def test_validation_chooses_and_the_test_only_confirms():
    found = recommend(
        results(
            method("bce", test=40, from_best=(-8, -10, -6), validation=39, from_val=(-6, -8, -3)),
            method("db", test=47.5, from_best=(-0.5, -1.5, 0.5), validation=45, from_baseline=(7.5, 6.0, 9.0)),
            method("asl", test=48, validation=44, from_val=(-1, -3, 1)),
            test="asl",
            validation="db",
            baseline="bce",
        )
    )
    assert found["methods"] == ["db", "asl"]
    text = " ".join(found["text"])
    assert "On held-out folds of split 'train', db has the highest mAP, 45.0." in text
    assert "It is statistically tied with asl: the 95% confidence intervals of the differences contain 0." in text
    assert "Use db. Of the methods tied with it, asl is the simplest." in text
    assert "On split 'test', which was not used to choose, db has mAP 47.5 ± 0.4, 7.5 (6.0 to 9.0) above bce." in text
    assert "The highest mAP on that split is that of asl; db is 0.5 (-0.5 to 1.5) below it, which is not" in text


def test_nothing_is_said_of_simplicity_when_the_best_is_the_simplest():
    found = recommend(
        results(
            method("bce", validation=45, test=45),
            method("pg", validation=44, test=44, from_val=(-1, -2, 0.5)),
            test="bce",
            validation="bce",
        )
    )
    assert found["methods"] == ["bce", "pg"]
    assert "Use bce." in found["text"]


def test_a_clear_winner_is_named_and_held_against_the_baseline():
    found = recommend(
        results(
            method("bce", test=40, from_best=(-8, -10, -6), validation=39, from_val=(-6, -8, -3)),
            method("pg", test=47.5, from_best=(-0.5, -0.9, -0.1), validation=45, from_baseline=(7.5, 6.0, 9.0)),
            method("db", test=48.0, validation=42, from_val=(-3, -5, -1), from_baseline=(8.0, 7.0, 9.0)),
            test="db",
            validation="pg",
            baseline="bce",
        )
    )
    assert found["methods"] == ["pg"]
    text = " ".join(found["text"])
    assert "It is better than every other method (95% confidence intervals of the differences). Use pg." in text
    assert "pg has mAP 47.5 ± 0.4, 7.5 (6.0 to 9.0) above bce." in text
    assert "The highest mAP on that split is that of db; pg is 0.5 (0.1 to 0.9) below it." in text


def test_without_folds_the_ranking_is_said_to_be_one_of_the_test():
    found = recommend(
        results(
            method("bce", test=47, from_best=(-1, -2.5, 0.5)),
            method("db", test=48),
            method("focal", test=40, from_best=(-8, -9, -7)),
            test="db",
            seeds=(0,),
        )
    )
    assert found["methods"] == ["db", "bce"]
    text = " ".join(found["text"])
    assert "No validation data were used: this is a ranking on the test split" in text
    assert "one seed only" in text
    assert "which was not used to choose" not in text


def test_failed_methods_are_not_ranked_and_searches_are_told_of():
    failed = method("asl", test=90, failed={"run": "runs/asl/seed0", "reason": "no"})
    failed["test"] = failed["validation"] = None
    found = recommend(
        results(
            failed,
            method("db", test=48, validation=45, chosen={"loss_options": {"mu": 0.3}}),
            test="db",
            validation="db",
        )
    )
    assert found["methods"] == ["db"]
    text = " ".join(found["text"])
    assert "asl failed and is not ranked." in text
    assert "Options of db were chosen on the same folds" in text
    assert "compared with none" in text


def test_nothing_is_recommended_when_everything_failed():
    failed = {"name": "pg", "test": None, "validation": None, "chosen": None, "failed": {"run": "", "reason": ""}}
    found = recommend(results(failed, test=None))
    assert found["methods"] == []
    assert "nothing to recommend" in found["text"][0]


def undefined(name, **changes):
    return method(name, test=None, from_best=(None, None, None), from_baseline=(None, None, None), **changes)


def test_nothing_is_recommended_from_scores_that_nobody_has():
    failed = method("asl", failed={"run": "runs/asl/seed0", "reason": "no"})
    failed["test"] = None
    found = recommend(results(undefined("bce"), undefined("pg"), failed, test=None))
    assert found["methods"] == []
    text = " ".join(found["text"])
    assert "No class has both a positive and a judged negative in split 'test', so no method has a score" in text
    assert "asl failed and is not ranked." in text
    assert "Use" not in text


def test_folds_choose_where_the_test_has_no_scores_and_it_says_so():
    chosen = undefined("pg", validation=45)
    other = undefined("bce", validation=40, from_val=(-5, -6, -4))
    found = recommend(results(chosen, other, test=None, validation="pg", baseline="bce"))
    assert found["methods"] == ["pg"]
    text = " ".join(found["text"])
    assert "Use pg." in text
    assert (
        "No class has both a positive and a judged negative in split 'test', so the choice cannot be confirmed" in text
    )
    assert "None" not in text


def test_a_difference_without_an_interval_is_told_without_one():
    best = method("pg", validation=45, test=48, from_baseline=(7.5, None, None))
    found = recommend(results(best, method("bce", validation=39), test="pg", validation="pg", baseline="bce"))
    assert "On split 'test', which was not used to choose, pg has mAP 48.0 ± 0.4, 7.5 above bce." in found["text"]


def test_an_undefined_difference_tells_nothing_apart():
    found = recommend(results(method("bce", test=47, from_best=(None, None, None)), method("db", test=48), test="db"))
    assert found["methods"] == ["db", "bce"]


def test_lists_read_as_sentences():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("on", ["test", "validation"])
@pytest.mark.parametrize(
    ("interval", "told_apart"),
    [
        ((-2.0, -0.1), True),
        ((-2.0, 0.0), False),
        ((-2.0, 1.0), False),
        ((0.0, 1.0), False),
        ((0.1, 1.0), True),
        ((0.0, 0.0), False),
        ((None, None), False),
        ((None, -1.0), False),
        ((1.0, None), False),
    ],
)
def test_an_interval_that_touches_zero_holds_it(on, interval, told_apart):
    key = {"test": "from_best", "validation": "from_val"}[on]
    scores = {} if on == "test" else {"validation": 45}
    other = method("bce", **scores, **{key: (-1, *interval)})
    best = {"test": "pg", "validation": "pg" if on == "validation" else None}
    found = recommend(results(other, method("pg", **scores), **best))
    assert found["methods"] == (["pg"] if told_apart else ["pg", "bce"])
    assert ("It is better than every other method" in " ".join(found["text"])) == told_apart


def test_only_the_total_decides():
    other = method("bce", from_best=(-1, -2, -0.5))
    other["test"]["against_best"]["tail"] = {"difference": 0, "low": -1, "high": 1}
    assert recommend(results(other, method("pg"), test="pg"))["methods"] == ["pg"]


def test_those_that_cannot_be_told_apart_stand_by_simplicity_then_name():
    names = ["zebra", "pg", "aardvark", "focal", "bce@uniform", "db"]
    found = recommend(results(*(method(name) for name in names), test="db"))
    assert found["methods"] == ["db", "bce@uniform", "focal", "pg", "aardvark", "zebra"]
    assert "Use db. Of the methods tied with it, bce@uniform is the simplest." in found["text"]
    assert "It is statistically tied with bce@uniform, focal, pg, aardvark and zebra:" in " ".join(found["text"])


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((2.5, 1.0, 4.0), "2.5 (1.0 to 4.0) above bce."),
        ((-2.5, -4.0, 1.0), "2.5 (-1.0 to 4.0) below bce."),
        ((0.0, -1.0, 2.0), "0.0 (-1.0 to 2.0) above bce."),
    ],
)
def test_the_baseline_is_set_beside_what_is_taken(difference, said):
    methods = (
        method("bce", validation=40, from_val=(-5, -6, -4)),
        method("pg", test=47, validation=45, from_baseline=difference),
    )
    found = recommend(results(*methods, test="pg", validation="pg", baseline="bce"))
    assert found["text"][-1] == f"On split 'test', which was not used to choose, pg has mAP 47.0 ± 0.4, {said}"


def test_nothing_is_set_beside_itself():
    methods = (method("bce", test=47, validation=45), method("pg", validation=40, from_val=(-5, -6, -4)))
    for baseline in ("bce", None):
        found = recommend(results(*methods, test="bce", validation="bce", baseline=baseline))
        assert found["text"][-1] == "On split 'test', which was not used to choose, bce has mAP 47.0 ± 0.4."


def test_one_run_has_no_deviation():
    only = method("bce", test=47, validation=45)
    only["test"]["std"] = dict.fromkeys(GROUPS)
    text = recommend(results(only, test="bce", validation="bce", seeds=(0,)))["text"]
    assert "On split 'test', which was not used to choose, bce has mAP 47.0." in text
    assert text[-1].startswith("Each method has one seed only")
    assert not any("one seed" in line for line in recommend(results(only, test="bce", validation="bce"))["text"])


def test_the_best_on_the_test_is_named_only_where_another_was_taken():
    above = method("db", test=49, validation=40, from_val=(-5, -6, -4))
    taken = method("pg", test=47, validation=45, from_best=(-2, -3, 0))
    text = recommend(results(above, taken, test="db", validation="pg"))["text"]
    assert text[-1] == (
        "The highest mAP on that split is that of db; pg is 2.0 (0.0 to 3.0) below it, "
        "which is not statistically significant."
    )
    assert "Use pg." in text


def test_searches_matter_where_folds_chose():
    searched = method("pg", validation=45, chosen={})
    said = "Options of pg were chosen on the same folds"
    assert said in " ".join(recommend(results(searched, test="pg", validation="pg"))["text"])
    assert said not in " ".join(recommend(results(searched, test="pg"))["text"])
    unsearched = method("pg", validation=45)
    assert said not in " ".join(recommend(results(unsearched, test="pg", validation="pg"))["text"])


def test_several_that_failed_are_named():
    failed = [method(name, failed={"run": "", "reason": ""}) for name in ("asl", "rw")]
    for entry in failed:
        entry["test"] = None
    text = recommend(results(*failed, method("db"), test="db"))["text"]
    assert text[-1] == "asl and rw failed and are not ranked."
    assert not any("failed" in line for line in recommend(results(method("db"), test="db"))["text"])


def test_the_level_is_that_of_the_intervals():
    given = results(method("bce"), method("pg"), test="pg")
    given["bootstrap"]["level"] = 0.9
    assert "the 90% confidence intervals of the differences contain 0" in " ".join(recommend(given)["text"])


def solved(strength, tried, precisions):
    part = {"loss": "any", "strength": strength, "tried": tried, "scores": precisions, "precisions": precisions}
    return {"transform": "sqrt", "parts": [{**part, "converged": True}]}


def test_the_sizes_of_choices_are_differences_on_the_folds():
    tried, precisions = [100.0, 10.0, 1.0, 0.5], [0.40, 0.45, 0.43, 0.1]
    path = solved(10.0, tried, precisions)
    entries = [
        method("ridge", validation=45, solved=path),
        method("db", validation=44.5, from_val=(-0.5, -1, 0), solved=path),
        method("logistic", validation=43, from_val=(-2, -3, -1), solved=path),
        method("bce@class-aware", validation=42.2, from_val=(-2.8, -3, -1), solved=path),
        method("ml-gcn", validation=30, from_val=(-15, -20, -10)),
    ]
    text = recommend(results(*entries, test="ridge", validation="ridge"))["text"]
    # A tenth and ten times the strength: 45 - (40 + 43) / 2.
    assert text[-1] == (
        "What matters on the held-out folds, in points of mAP: the loss, up to 2.0 (ridge against logistic); the "
        "strength of the penalty, 3.5 (the chosen one against one ten times off); the sampler, up to 0.8 "
        "(bce@class-aware against equal weights)."
    )
    trained = [method("ridge", validation=45), method("db", validation=44, from_val=(-1, -2, 0.5))]
    assert "What matters" not in " ".join(recommend(results(*trained, test="ridge", validation="ridge"))["text"])
