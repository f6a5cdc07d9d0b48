"""What `doctor` has found: one line for each check, and under each problem what to do about it.

The law: nothing that is secret in the configuration stands in a finding, whoever wrote the words it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from config.schema import Config

from .words import printable

State = Literal["ok", "problem", "skipped"]
_HIDDEN = "***"
_LEAST_CHARS = 4  # a shorter "secret" would blot out parts of ordinary words


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check."""

    subject: str  # a provider's name, or "this machine"
    check: str
    state: State
    text: str
    advice: str = ""  # what to do; of a problem


class Book:
    """Writes down findings about one subject."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []

    def ok(self, check: str, text: str) -> None:
        """It is as it should be."""
        self.findings.append(Finding(subject=self.subject, check=check, state="ok", text=text))

    def skipped(self, check: str, text: str) -> None:
        """It was not looked at, or there is nothing to look at: why."""
        self.findings.append(Finding(subject=self.subject, check=check, state="skipped", text=text))

    def problem(self, check: str, text: str, advice: str) -> None:
        """It is not as it should be."""
        self.findings.append(Finding(subject=self.subject, check=check, state="problem", text=text, advice=advice))

    @property
    def broken(self) -> bool:
        """Whether there is a problem among them."""
        return any(finding.state == "problem" for finding in self.findings)


def without_secrets(findings: Iterable[Finding], config: Config) -> list[Finding]:
    """Every secret of the configuration replaced, wherever it stands: upstreams like to quote the key they refuse."""
    secrets = sorted(_secrets(config), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    return [
        msgspec.structs.replace(finding, text=clean(finding.text), advice=clean(finding.advice)) for finding in findings
    ]


def _secrets(config: Config) -> set[str]:
    secrets = [*config.server.api_keys, *config.server.admin_keys, *(key.key for key in config.keys.values())]
    for provider in config.providers.values():
        secrets += [secret for secret in (provider.api_key, provider.proxy) if secret is not None]
        secrets += [*provider.headers.values(), *provider.env.values()]
    return {value for secret in secrets if len(value := secret.reveal()) >= _LEAST_CHARS and value != "auto"}


def lines(findings: Iterable[Finding], titles: dict[str, str]) -> Iterator[str]:
    """For people. Args: titles: subject → its heading."""
    subject = None
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            yield printable(titles.get(subject, subject))
        yield f"  {finding.state:<8} {finding.check:<13} {printable(finding.text)}"
        if finding.advice:
            yield f"  {'':<8} {'':<13} → {printable(finding.advice)}"
