"""Redaction: what is found and withheld, and that no text makes it slow."""

import pytest

from runtime.redaction import MASK, DataPolicy, Redactor, merged, parse_path

ALL = ("email", "ssn", "credit_card", "phone", "ip_address")


def redactor(**fields) -> Redactor:
    return Redactor(DataPolicy(**fields), "acme")


@pytest.mark.parametrize(
    ("detector", "text", "shown"),
    [
        ("email", "to ann.b+c@mail.example.org, now", f"to {MASK}, now"),
        ("email", "a@b and @nobody", "a@b and @nobody"),
        ("ssn", "it is 123-45-6789.", f"it is {MASK}."),
        ("ssn", "123-45-67890 and 5123-45-6789", "123-45-67890 and 5123-45-6789"),
        ("credit_card", "4111 1111 1111 1111 or 4111-1111-1111-1111", f"{MASK} or {MASK}"),
        ("credit_card", "4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("phone", "call +49 (30) 123-4567 today", f"call {MASK} today"),
        ("phone", "in 2024 there were 1234567", "in 2024 there were 1234567"),
        ("ip_address", "from 192.0.2.17 and 2001:db8::1", f"from {MASK} and {MASK}"),
        ("ip_address", "12:30:59, 1.2.3.4.5, 999.1.1.1", "12:30:59, 1.2.3.4.5, 999.1.1.1"),
    ],
)  # fmt: skip
def test_detectors(detector: str, text: str, shown: str) -> None:
    assert redactor(pii_detectors=(detector,)).text(text) == shown


def test_fields_are_named_by_their_keys_wherever_they_begin() -> None:
    withheld = redactor(pii_fields=("$.customer.email", "$.orders[*].card"))
    value = {
        "customer": {"email": "a", "name": "Ann"},
        "email": "b",
        "orders": [{"card": 4111, "sum": 2}],
        "deep": {"customer": {"email": {"x": 1}}},
    }
    assert withheld.value(value) == {
        "customer": {"email": MASK, "name": "Ann"},
        "email": "b",
        "orders": [{"card": MASK, "sum": 2}],
        "deep": {"customer": {"email": MASK}},
    }
    assert withheld.value("x", ("customer", "email")) == MASK


def test_modes() -> None:
    value = {"email": "a@b.org", "note": "a@b.org wrote"}
    fields = {"pii_fields": ("$.email",), "pii_detectors": ("email",)}
    assert redactor(**fields, redaction_mode="remove").value(value) == {"note": " wrote"}
    hashed = redactor(**fields, redaction_mode="hash").value(value)
    assert isinstance(hashed, dict)
    assert hashed["note"] == f"{hashed['email']} wrote", "equal values are comparable"
    other = Redactor(DataPolicy(**fields, redaction_mode="hash"), "globex").value(value)
    assert isinstance(other, dict)
    assert other["email"] != hashed["email"], "but not with those of another tenant"


def test_numbers_in_keys_and_values_are_looked_at_too() -> None:
    withheld = redactor(pii_detectors=("credit_card",))
    assert withheld.value({"4111111111111111": [4111111111111111, 7, True, None]}) == {
        MASK: [MASK, 7, True, None]
    }


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "char", ["1", "a", ".", "-", ":", "@", " ", "a.", "1.", "a@", "1 ", "+1", ":a", "(1"]
)
def test_no_text_makes_detectors_slow(char: str) -> None:
    text = (char * 1_000_000)[:1_000_000]
    assert len(redactor(pii_detectors=ALL, redaction_mode="remove").text(text)) <= len(text)


def test_a_narrower_policy_only_adds() -> None:
    broad = DataPolicy(pii_fields=("$.a",), redaction_mode="hash", retain_prompts=True, retention_days=30)
    narrow = DataPolicy(
        pii_detectors=("email",), retain_prompts=True, retain_outputs=False, retention_days=90
    )
    both = merged((broad, None, narrow))
    assert both == DataPolicy(
        pii_fields=("$.a",),
        pii_detectors=("email",),
        redaction_mode="hash",
        retain_prompts=True,
        retain_outputs=False,
        retention_days=30,
    )
    assert merged((None,)) is None


@pytest.mark.parametrize("path", ["", "a", "$", "$.", "$.a..b", "$.a b", "$[0]", "$.a[x]"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="pii_fields"):
        parse_path(path)


def test_paths() -> None:
    assert parse_path("$.orders[*].card") == parse_path("$.orders[3].card") == ("orders", "card")
