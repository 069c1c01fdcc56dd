"""A recommendation in sentences: which method to take, and how certain that is."""

from __future__ import annotations

from collections.abc import Sequence

from tailwise.experiments.methods import simplicity
from tailwise.experiments.results import Comparison, Difference, MethodResult, Recommendation
from tailwise.metrics.groups import TOTAL


def recommend(results: Comparison) -> Recommendation:
    """Choose a method, and name those that do not differ from it.

    The choice is made on validation data where there are any, so that it does not bias the test scores of the method
    chosen. The method with the highest score is taken even if others do not differ from it, because it is the most
    likely to be best: with few images of rare classes hardly any method can be ruled out. Two methods do not differ
    when the interval of their difference contains 0.

    Args:
        results: a comparison; its recommendation is ignored.

    Returns:
        The method to take, then those that do not differ from it, the simplest first; none where there is no score to
        choose by.
    """
    finished = [method for method in results.methods if method.test is not None]
    on_validation = results.highest.validation is not None
    best = results.method(results.highest.validation if on_validation else results.highest.test)
    if best is None:
        if not finished:
            return Recommendation((), ("No method finished all of its runs, so there is nothing to recommend.",))
        sentence = (
            f"{_nothing_scored(results)}, so no method has a score and there is nothing to recommend. Compare on "
            "images whose labels were judged both ways; tailwise inspect names the classes."
        )
        return Recommendation((), (sentence, *_caveats(results, on_validation)))
    equal = [method.name for method in finished if method is not best and not _to_best(method, on_validation).is_clear]
    equal.sort(key=lambda name: (simplicity(name), name))
    text = _choice(results, len(finished), on_validation, best, equal)
    if on_validation:
        text += _confirmation(results, best)
        text += _sizes(results, best)
    return Recommendation((best.name, *equal), (*text, *_caveats(results, on_validation)))


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _to_best(method: MethodResult, on_validation: bool) -> Difference:
    scores = method.validation if on_validation else method.test
    assert scores is not None
    assert scores.against_best is not None
    return scores.against_best[TOTAL]


def _choice(
    results: Comparison, num_finished: int, on_validation: bool, best: MethodResult, equal: Sequence[str]
) -> list[str]:
    assert results.bootstrap is not None
    level, data = f"{100 * results.bootstrap.level:g}%", results.data
    if on_validation:
        assert best.validation is not None
        score = best.validation.means[TOTAL]
        text = [f"On held-out folds of split {data.train_split!r}, {best.name} has the highest mAP, {score:.1f}."]
    else:
        text = [
            f"On split {data.test_split!r}, {best.name} has the highest mAP, {best.mean():.1f}.",
            "No validation data were used: this is a ranking on the test split itself, so the score of the best method "
            "is optimistic.",
        ]
    if num_finished == 1:
        text.append("No other method finished, so it is compared with none.")
    elif equal:
        text.append(
            f"It is statistically tied with {listed(equal)}: the {level} confidence intervals of the differences "
            "contain 0."
        )
    else:
        text.append(f"It is better than every other method ({level} confidence intervals of the differences).")
    simplest = equal[0] if equal and simplicity(equal[0]) < simplicity(best.name) else None
    aside = f" Of the methods tied with it, {simplest} is the simplest." if simplest else ""
    text.append(f"Use {best.name}.{aside}")
    return text


def _confirmation(results: Comparison, taken: MethodResult) -> list[str]:
    """Results of the method on the test split, which took no part in the choice."""
    baseline, best, test = results.baseline, results.highest.test, taken.test
    if best is None:
        return [f"{_nothing_scored(results)}, so the choice cannot be confirmed."]
    assert test is not None
    deviation = test.deviations[TOTAL]
    text = f"On split {results.data.test_split!r}, which was not used to choose, {taken.name} has mAP "
    text += f"{taken.mean():.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
    if baseline is not None and baseline != taken.name:
        text += f", {_compared(test.against('baseline')[TOTAL])} {baseline}"
    sentences = [f"{text}."]
    if best != taken.name:
        difference = test.against("best")[TOTAL]
        ending = "" if difference.is_clear else ", which is not statistically significant"
        sentences.append(
            f"The highest mAP on that split is that of {best}; {taken.name} is {_compared(difference)} it{ending}."
        )
    return sentences


def _sizes(results: Comparison, taken: MethodResult) -> list[str]:
    """What the choices that led to a solved head are worth, in points of mAP on the held-out folds."""
    held_out = {
        method.name: method.validation.means[TOTAL]
        for method in results.methods
        if method.solved is not None and method.validation is not None
    }
    scores = {name: score for name, score in held_out.items() if score is not None}
    if taken.solved is None or taken.name not in scores:
        return []
    parts = []
    others = [name for name in scores if "@" not in name and name != taken.name]
    if others:
        lowest = min(others, key=scores.__getitem__)
        size = scores[taken.name] - scores[lowest]
        parts.append(f"the loss, up to {size:.1f} ({taken.name} against {lowest})")
    strength = _cost_of_strength(taken)
    if strength is not None and strength > 0:
        parts.append(f"the strength of the penalty, {strength:.1f} (the chosen one against one ten times off)")
    sampled = [(name, base) for name in scores if (base := name.partition("@")[0]) != name]
    sampled = [(name, "logistic" if base == "bce" else base) for name, base in sampled]
    sizes = {name: abs(scores[name] - scores[base]) for name, base in sampled if base in scores}
    if sizes:
        name = max(sizes, key=sizes.__getitem__)
        parts.append(f"the sampler, up to {sizes[name]:.1f} ({name} against equal weights)")
    return [f"What matters on the held-out folds, in points of mAP: {'; '.join(parts)}."] if parts else []


def _cost_of_strength(method: MethodResult) -> float | None:
    """Points of held-out mAP lost with a penalty about ten times stronger or weaker, on average."""
    assert method.solved is not None
    part = method.solved["parts"][0]
    tried, values = part["tried"], part["precisions"]
    chosen = tried.index(part["strength"])
    off = [
        value
        for strength, value in zip(tried, values, strict=True)
        if 8 < max(strength / tried[chosen], tried[chosen] / strength) < 12
    ]
    return 100 * (values[chosen] - sum(off) / len(off)) if off else None


def _nothing_scored(results: Comparison) -> str:
    return f"No class has both a positive and a judged negative in split {results.data.test_split!r}"


def _caveats(results: Comparison, on_validation: bool) -> list[str]:
    text = []
    if len(results.seeds) == 1 and any(m.test is not None and m.solved is None for m in results.methods):
        text.append(
            "Each method has one seed only: the intervals on the test split exclude the variation between seeds."
        )
    searched = [method.name for method in results.methods if method.chosen is not None]
    if searched and on_validation:
        text.append(
            f"Options of {listed(searched)} were chosen on the same folds: the validation scores are the best of "
            "several, and a method with more options had more tries."
        )
    failed = [method.name for method in results.methods if method.test is None]
    if failed:
        text.append(f"{listed(failed)} failed and {'is' if len(failed) == 1 else 'are'} not ranked.")
    return text


def _compared(difference: Difference) -> str:
    """A difference and its interval, if there is one, in words."""
    value, ends = difference.difference, [difference.low, difference.high]
    assert value is not None
    if value < 0:
        ends = [None if end is None else -end for end in reversed(ends)]
    low, high = ends
    interval = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return f"{abs(value):.1f}{interval} {'below' if value < 0 else 'above'}"
