"""A recommendation in sentences: which method to take, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailwise.experiments.methods import simplicity
from tailwise.metrics.groups import TOTAL


def recommend(results: Mapping[str, Any]) -> dict[str, Any]:
    """Say which method to take, and which cannot be told apart from it.

    The choice is made on validation data where there are any: the test scores of what is recommended are then those of
    a method that they did not choose. The method with the highest score is taken even if others cannot be told apart
    from it, because it is the one most likely to be best: few images of rare classes tell little, and then hardly
    anything could be ruled out. Two methods cannot be told apart when the interval of their difference holds 0.

    Args:
        results: what results.json holds, but for the recommendation.

    Returns:
        ``methods``, the one to take and then those that cannot be told apart from it, the simplest first; none where
        there is no score to choose by; and ``text``, sentences.
    """
    finished = {method["name"]: method for method in results["methods"] if method["test"] is not None}
    failed = [method["name"] for method in results["methods"] if method["test"] is None]
    on = "test" if results["best"]["validation"] is None else "validation"
    best = results["best"][on]
    if best is None:
        if not finished:
            return {"methods": [], "text": ["No method finished all of its runs, so there is nothing to recommend."]}
        text = [
            f"{_nothing_scored(results)}, so that no method has a score and there is nothing to recommend. Compare on "
            "images whose labels were judged both ways; tailwise inspect names the classes."
        ]
        return {"methods": [], "text": text + _caveats(results, on, failed)}
    equal = [
        name for name, method in finished.items() if name != best and not _differs(method[on]["against_best"][TOTAL])
    ]
    equal.sort(key=lambda name: (simplicity(name), name))
    text = _choice(results, finished, on, best, equal)
    if on == "validation":
        text += _confirmation(results, finished, best)
    text += _caveats(results, on, failed)
    return {"methods": [best, *equal], "text": text}


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _choice(
    results: Mapping[str, Any], finished: Mapping[str, Any], on: str, best: str, equal: Sequence[str]
) -> list[str]:
    data = results["data"]
    level = f"{100 * results['bootstrap']['level']:g}%"
    if on == "validation":
        score = finished[best]["validation"]["mAP"][TOTAL]
        text = [f"On held-out folds of split {data['train_split']!r}, {best} has the highest mAP, {score:.1f}."]
    else:
        score = finished[best]["test"]["mean"][TOTAL]
        text = [
            f"On split {data['test_split']!r}, {best} has the highest mAP, {score:.1f}.",
            "Nothing was chosen on validation data: this is a ranking on the test split, and the score of the method "
            "that comes out best is optimistic.",
        ]
    if len(finished) == 1:
        text.append("It has nothing to be compared with.")
    elif equal:
        text.append(
            f"Between it and {listed(equal)} there is no difference that these data can show (the {level} intervals of "
            f"the differences hold 0)."
        )
    else:
        text.append(f"It is better than every other method ({level} intervals of the differences).")
    simplest = equal[0] if equal and simplicity(equal[0]) < simplicity(best) else None
    aside = f"; {simplest} is the simplest that is not ruled out" if simplest else ""
    text.append(f"Take {best}{aside}.")
    return text


def _confirmation(results: Mapping[str, Any], finished: Mapping[str, Any], taken: str) -> list[str]:
    """What the test split, which has chosen nothing, says of the method to take."""
    if results["best"]["test"] is None:
        return [f"{_nothing_scored(results)}, so that nothing confirms this choice."]
    test, baseline, best = finished[taken]["test"], results["baseline"], results["best"]["test"]
    spread = "" if test["std"][TOTAL] is None else f" ± {test['std'][TOTAL]:.1f}"
    text = f"On split {results['data']['test_split']!r}, which chose nothing, {taken} has mAP {test['mean'][TOTAL]:.1f}"
    text += spread
    if baseline is not None and baseline != taken:
        text += f", {_compared(test['against_baseline'][TOTAL])} {baseline}"
    sentences = [f"{text}."]
    if best != taken:
        difference = test["against_best"][TOTAL]
        ending = "" if _differs(difference) else ", which is no difference that these data can show"
        sentences.append(f"The highest mAP there is that of {best}; {taken} is {_compared(difference)} it{ending}.")
    return sentences


def _nothing_scored(results: Mapping[str, Any]) -> str:
    return f"No class has both a positive and a judged negative in split {results['data']['test_split']!r}"


def _caveats(results: Mapping[str, Any], on: str, failed: Sequence[str]) -> list[str]:
    text = []
    if len(results["seeds"]) == 1:
        text.append("Each method has one seed only: the intervals on the test split leave out what the seed changes.")
    searched = [method["name"] for method in results["methods"] if method["chosen"] is not None]
    if searched and on == "validation":
        text.append(
            f"Options of {listed(searched)} were chosen on the same folds: the validation scores are the best of "
            "several, and a method with more options had more tries."
        )
    if failed:
        text.append(f"{listed(failed)} failed and {'is' if len(failed) == 1 else 'are'} not ranked.")
    return text


def _differs(difference: Mapping[str, float | None]) -> bool:
    low, high = difference["low"], difference["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _compared(difference: Mapping[str, Any]) -> str:
    """A difference and its interval, if any replicate has one, in words."""
    value, ends = difference["difference"], [difference["low"], difference["high"]]
    if value < 0:
        value, ends = -value, [None if end is None else -end for end in reversed(ends)]
    interval = "" if None in ends else " ({:.1f} to {:.1f})".format(*ends)
    return f"{value:.1f}{interval} {'below' if difference['difference'] < 0 else 'above'}"
