"""The recommendation on constructed results: what is chosen, and what the sentences say."""

from __future__ import annotations

from tailwise.experiments.recommend import listed, recommend

GROUPS = ("total", "head", "medium", "tail")


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
    assert "Between it and asl there is no difference that these data can show (the 95% intervals" in text
    assert "Take db; asl is the simplest that is not ruled out." in text
    assert "On split 'test', which chose nothing, db has mAP 47.5 ± 0.4, 7.5 (6.0 to 9.0) above bce." in text
    assert "The highest mAP there is that of asl; db is 0.5 (-0.5 to 1.5) below it, which is no difference" in text


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
    assert "Take bce." in found["text"]


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
    assert "It is better than every other method (95% intervals of the differences). Take pg." in text
    assert "pg has mAP 47.5 ± 0.4, 7.5 (6.0 to 9.0) above bce." in text
    assert "The highest mAP there is that of db; pg is 0.5 (0.1 to 0.9) below it." in text


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
    assert "Nothing was chosen on validation data: this is a ranking on the test split" in text
    assert "one seed only" in text
    assert "which chose nothing" not in text


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
    assert "nothing to be compared with" in text


def test_nothing_is_recommended_when_everything_failed():
    failed = {"name": "pg", "test": None, "validation": None, "chosen": None, "failed": {"run": "", "reason": ""}}
    found = recommend(results(failed, test=None))
    assert found["methods"] == []
    assert "nothing to recommend" in found["text"][0]


def test_an_undefined_difference_tells_nothing_apart():
    found = recommend(results(method("bce", test=47, from_best=(None, None, None)), method("db", test=48), test="db"))
    assert found["methods"] == ["db", "bce"]


def test_lists_read_as_sentences():
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
