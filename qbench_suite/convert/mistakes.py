"""Mistakes: what pydantic finds wrong with a policy, said by file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from qbench_suite.errors import PolicyError
from qbench_suite.registry import near_misses
from qbench_suite.yaml_lines import Document, Key

_DOCUMENTED = "docs/how-to/policies.md says what each key takes"


def policy_error(document: Document, error: ValidationError, model: type[BaseModel]) -> PolicyError:
    """Every mistake of a validation as one error, a line each, in the order of the file.

    ``model``: what was validated, which knows the keys that there are.
    """
    found = [_mistake(document, details, model) for details in error.errors(include_url=False)]
    lines = dict.fromkeys(str(mistake) for _, mistake in sorted(found, key=lambda pair: pair[0]))
    return PolicyError("\n".join(lines))


def _mistake(
    document: Document, details: ErrorDetails, model: type[BaseModel]
) -> tuple[int, PolicyError]:
    key: Key = details["loc"]
    context = details.get("ctx", {})
    if details["type"] == "conflict":
        inner = context["key"]
        key = (*key, *([inner] if isinstance(inner, str) else inner))
        words = (context["invariant"], context["received"], context["remedy"])
    elif details["type"] == "extra_forbidden":
        words = _unknown_key(key, model)
    else:
        words = _wrong_value(key, details, model, _received(document, key, details["input"]))
    of_value = details["type"] not in ("conflict", "extra_forbidden")
    return document.line(key), document.error(key, *words, of_value=of_value)


def _unknown_key(key: Key, model: type[BaseModel]) -> tuple[str, str, str]:
    *_, (fields, _) = _walk(key, model)
    where = ".".join(map(str, key[:-1]))
    known = f"keys of {where} are" if where else "keys of a policy are"
    nearest = difflib.get_close_matches(str(key[-1]), sorted(fields), n=1)
    remedy = f"did you mean {nearest[0]}?" if nearest else near_misses(str(key[-1]), sorted(fields))
    return f"{known} known ones", repr(key[-1]), remedy


def _received(document: Document, key: Key, value: Any) -> str:
    """A value as it is written, and what YAML makes of it where that may surprise."""
    written = document.words.get(key)
    if written is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, bool) and written.lower() != str(value).lower():
        return f"{written}, which YAML reads as {str(value).lower()}"
    return written


def _wrong_value(
    key: Key, details: ErrorDetails, model: type[BaseModel], received: str
) -> tuple[str, str, str]:
    name = ".".join(map(str, key)) or "a policy"
    if details["type"] == "literal_error":
        expected = str(details["ctx"]["expected"])
        words = expected.replace("'", "").replace(" or ", ", ").split(", ")
        return f"{name} is {expected}", received, near_misses(str(details["input"]), words)
    if details["type"] in ("model_type", "dict_type") and key:
        remedy = f"indent the keys of {key[-1]} below it"
        return f"{name} is a mapping{_words(key)}", received, remedy
    message = str(details["msg"]).replace("tuple", "list")
    for subject in ("Input ", "String "):
        message = message.removeprefix(subject)
    invariant = f"{name} {message}"
    examples = [f.examples for _, f in _walk(key, model) if f is not None and f.examples]
    remedy = f"write for instance {examples[-1][0]}" if examples else _DOCUMENTED
    if details["type"] == "string_type" and isinstance(details["input"], bool):
        remedy = f"put it in quotes, or {remedy}"
    return invariant, received, remedy


def _words(key: Key) -> str:
    """What an entry may be instead of a mapping."""
    entry = len(key) == 2 and key[0] in ("layers", "types")
    return ", or none, or same" if entry or str(key[-1]).endswith("_layer") else ""


def _walk(
    key: Key, model: type[BaseModel]
) -> Iterator[tuple[Mapping[str, FieldInfo], FieldInfo | None]]:
    """Down a key: the fields that are known where it stands, and the field that it is, if any."""
    fields: Mapping[str, FieldInfo] = model.model_fields
    for part in key:
        field = fields.get(str(part))
        yield fields, field
        inner = None if field is None else _model_of(field.annotation)
        if inner is not None:
            fields = inner.model_fields


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or that the values of its mapping are."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return models[0] if models else None
