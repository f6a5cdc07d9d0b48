"""What a model name means. Pure.

The first rule that finds something decides:

1. the public name: what the operator called a model, or `provider/name` of what a provider lists
2. an alias
3. `provider/name` of a configured model's target: a route of one
4. a bare name, as a provider lists it; listed by several, one route over all of them in configured order
5. a name without its tag, where names have tags (Ollama): `llama3.2` and `ollama/llama3.2` mean `…:latest` where that is there,
   else the only tag there is; of several, none
6. NAME with a variant's suffix (OpenRouter's `:nitro`), where NAME is meant by `provider/name` or a bare name of such a provider
7. NAME:latest, as Ollama's clients complete a name without a tag: NAME, by one of the rules 1 to 4
8. nothing: 404 with the nearest names

Names are exact, also in case. A listed `name:free` is an ordinary name; it is never meant by `name`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from operator import itemgetter

from gateway.errors import UnknownModel

from .catalog import LATEST, Catalog, Model, Target

# A name longer than any real one is neither compared nor repeated in full.
COMPARED_MAX = 256
_NEAR = 3  # names in a hint
_TAGS_MAX = 8  # in a hint; an Ollama family has a few
# Two neighbouring letters are a gram. A first look at all names takes a sample of the asked name's grams, a second one at the best
# of them takes more; together they bound the cost of a hostile name.
_ROUGH_GRAMS = 12
_CLOSER = 64
_GRAMS_MAX = 64
_SLIP_CUTOFF = 0.7  # "ecko" and "echo" have 0.75
_CUTOFF = 0.4  # of the share of grams in common: "lama" and "llama" have 0.86, "gpt4" and "gpt-4" 0.57, other models below 0.4


def resolve(catalog: Catalog, name: str) -> Model:
    """The model meant by `name`. Raises: UnknownModel, naming up to three that look like it."""
    model = catalog.meant.get(name)
    if model is None:
        model = _variant(catalog, name) or _latest(catalog, name)
        if model is None:
            raise UnknownModel(_unknown_text(catalog, name), param="model")
    return model


def _variant(catalog: Catalog, name: str) -> Model | None:
    """Rule 6."""
    colon = name.rfind(":")
    if colon <= 0 or not catalog.variants:
        return None
    stem, suffix = name[:colon], name[colon:]
    for models in (catalog.listed, catalog.bare):
        model = models.get(stem)
        if model is None:
            continue
        bases = [target for target in model.targets if suffix in catalog.variants.get(target.provider, ())]
        if bases:
            targets = tuple(Target(base.key + suffix, base.provider, f"{base.upstream_name}{suffix}") for base in bases)
            offer = catalog.offers.get(bases[0].key)
            length = None if offer is None else offer.context_length
            return Model(model.name + suffix, targets, (), length, model.created, offer, True)
    return None


def _latest(catalog: Catalog, name: str) -> Model | None:
    """Rule 7. Not by rule 5: `qwen:latest` must not mean the only other tag there is."""
    stem = name.removesuffix(f":{LATEST}")
    if stem == name:
        return None
    tables = (catalog.by_name, catalog.by_target, catalog.bare)
    return next((table[stem] for table in tables if stem in table), None)


def _unknown_text(catalog: Catalog, name: str) -> str:
    shown = name if len(name) <= COMPARED_MAX else name[:COMPARED_MAX] + "…"
    if not catalog.by_name:
        return f"The model '{shown}' does not exist: no model is configured or found"
    return f"The model '{shown}' does not exist; {_hint(catalog, name)}"


def _hint(catalog: Catalog, name: str) -> str:
    tags = [tag for tag in catalog.ambiguous.get(name, ()) if len(tag) <= COMPARED_MAX]
    if tags:
        more = f" and {len(tags) - _TAGS_MAX} more" if len(tags) > _TAGS_MAX else ""
        return f"say which one: {_quoted(tags[:_TAGS_MAX])}{more}"
    near = nearest(catalog, name)
    return f"did you mean {_quoted(near)}?" if near else "GET /v1/models lists what is there"


def nearest(catalog: Catalog, name: str) -> list[str]:
    """Up to three names that look like it, the nearest first, of the same provider where it names one."""
    if len(name) > COMPARED_MAX:
        return []
    provider, slash, rest = name.partition("/")
    scored: list[tuple[float, str]] = []
    if slash and rest:
        cut = len(provider) + 1
        same = (key for key in catalog.by_target if key.startswith(name[:cut]))
        scored = _scored(rest, ((key[cut:], key) for key in same))
    if len(scored) < _NEAR:
        scored += _scored(name, ((own, own) for own in {**catalog.own, **catalog.bare}))
    best: dict[str, float] = {}
    for score, shown in scored:
        best[shown] = max(score, best.get(shown, 0.0))
    return heapq.nlargest(_NEAR, best, key=best.__getitem__)


def _scored(name: str, others: Iterable[tuple[str, str]]) -> list[tuple[float, str]]:
    """Those above the cut, by the share of grams in common (Dice) or but for one slip. `others`: (compared, shown)."""
    text = name.lower()
    grams = list(dict.fromkeys(text[i : i + 2] for i in range(len(text) - 1))) or ([text] if text else [])
    rough: list[tuple[float, str, str]] = []
    for other, shown in others:
        length = max(1, len(other) - 1)
        # also if all grams of the shorter one were in the longer one it would stay below the cut
        if len(other) <= COMPARED_MAX and 2 * min(length, len(grams)) >= _CUTOFF * (length + len(grams)):
            lower = other.lower()
            score = max(_share(grams, lower, _ROUGH_GRAMS), _one_slip(text, lower))
            if score >= _CUTOFF / 2:
                rough.append((score, lower, shown))
    if len(rough) > _CLOSER:
        rough = heapq.nlargest(_CLOSER, rough, key=itemgetter(0))
    scored = ((max(_share(grams, lower, _GRAMS_MAX), _one_slip(text, lower)), shown) for _, lower, shown in rough)
    return [each for each in scored if each[0] >= _CUTOFF]


def _share(grams: Sequence[str], other: str, sampled: int) -> float:
    """Twice the grams in common by all grams of both, from an even sample of at most so many."""
    step = -(-len(grams) // sampled)
    return 2 * step * sum(map(other.__contains__, grams[::step])) / (len(grams) + max(1, len(other) - 1))


def _one_slip(one: str, other: str) -> float:
    """How much of the longer is common beginning and common end: a slip in one place of a short name spoils most of its grams.

    Below `_SLIP_CUTOFF` it says nothing: many names of one family begin alike.
    """
    if abs(len(one) - len(other)) > 1 or not one or not other or (one[0] != other[0] and one[-1] != other[-1]):
        return 0.0
    short = min(len(one), len(other))
    begin = next((i for i in range(short) if one[i] != other[i]), short)
    end = next((i for i in range(short - begin) if one[-1 - i] != other[-1 - i]), short - begin)
    share = (begin + end) / max(len(one), len(other))
    return share if share >= _SLIP_CUTOFF else 0.0


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
