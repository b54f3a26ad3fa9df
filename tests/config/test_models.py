"""The models of the file against the frozen settings: no key of either is lost."""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from smtpproxy import settings
from smtpproxy.config import models
from smtpproxy.policy.model import Stream

PAIRS = [
    (models.Server, settings.ServerSettings),
    (models.Listener, settings.ListenerSettings),
    (models.Upstream, settings.UpstreamSettings),
    (models.Store, settings.StoreSettings),
    (models.Audit, settings.AuditSettings),
    (models.Web, settings.WebSettings),
    (models.Policy, settings.PolicySettings),
]

DERIVED = {"url"}  # of the store: from state_dir
ELSEWHERE = {"partners"}  # of the store: a table of its own


@pytest.mark.parametrize(("model", "frozen"), PAIRS, ids=lambda c: c.__name__)
def test_every_setting_has_a_key_with_the_same_default(
    model: type[BaseModel], frozen: type[Any]
) -> None:
    for field in dataclasses.fields(frozen):
        if field.name in ELSEWHERE:
            continue
        key = model.model_fields[field.name]
        if field.default is dataclasses.MISSING or field.name in DERIVED:
            continue
        adapter: TypeAdapter[Any] = TypeAdapter(key.rebuild_annotation())
        default = adapter.validate_python(key.get_default(call_default_factory=True))
        if isinstance(field.default, tuple):
            default = tuple(default)
        assert default == field.default, field.name


@pytest.mark.parametrize(("model", "frozen"), PAIRS, ids=lambda c: c.__name__)
def test_every_key_becomes_a_setting_or_comes_later(
    model: type[BaseModel], frozen: type[Any]
) -> None:
    known = {field.name for field in dataclasses.fields(frozen)}
    for name, key in model.model_fields.items():
        comes_later = any(
            isinstance(getattr(mark, "func", None), models.NotYet) for mark in key.metadata
        )
        assert name in known or comes_later, name


def test_every_property_of_a_stream_can_be_written() -> None:
    keys = set(models.Stream.model_fields)
    renamed = {"one_click_required": "one_click", "refuse_at_data": "refuse_at"}
    of_the_policy = {"marketing_cap"}
    named = set(Stream.__struct_fields__) - of_the_policy
    assert {renamed.get(name, name) for name in named} <= keys
